import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import crops
from model.crops import crop_masks, frame_crops, mask_probabilities, part_crops
from model.structures import BoolMask, Geometry, MaskCrops, tight_box

GEOMETRIES = {
    "as it is": Geometry((96, 160), (96, 160), (96, 160)),
    "larger": Geometry((123, 205), (90, 150), (96, 160)),
    "smaller, much padding": Geometry((31, 17), (96, 53), (96, 160)),
    "one pixel": Geometry((1, 1), (96, 96), (96, 160)),
}


def random_objects(count: int = 12) -> tuple[Tensor, Tensor]:
    """Kernels and a smooth mask feature: masks of a few blobs each, one of them empty."""
    torch.manual_seed(count)
    feature = F.interpolate(torch.randn(1, 6, 5, 8), size=(24, 40), mode="bicubic")[0]
    kernels = torch.randn(count, 6)
    kernels[3] = 0
    return kernels, feature


def whole_frames(kernels: Tensor, feature: Tensor, geometry: Geometry) -> BoolMask:
    """(N, H, W), step by step as MMDetection resizes them."""
    probability = mask_probabilities(kernels, feature)[:, None]
    canvas = F.interpolate(probability, scale_factor=4, mode="bilinear")
    picture = canvas[:, :, : geometry.resized[0], : geometry.resized[1]]
    return (F.interpolate(picture, size=geometry.original, mode="bilinear")[:, 0] > 0.5).numpy()


def assert_cut_from(found: tuple[np.ndarray, MaskCrops], frames: BoolMask) -> None:
    boxes, masks = found
    assert [tuple(box) for box in boxes] == [tight_box(frame) for frame in frames]
    for (x1, y1, x2, y2), mask, frame in zip(boxes, masks, frames, strict=True):
        assert np.array_equal(mask, frame[y1:y2, x1:x2])


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_whole_frames_give_the_originals_masks(geometry: Geometry) -> None:
    kernels, feature = random_objects()

    found = frame_crops(kernels, feature, geometry, 0.5)

    assert_cut_from(found, whole_frames(kernels, feature, geometry))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_parts_of_frames_give_the_same(geometry: Geometry) -> None:
    kernels, feature = random_objects()
    binary = mask_probabilities(kernels, feature) > 0.5
    some = binary.flatten(1).any(1)

    found = part_crops(kernels[some], feature, binary[some], geometry, 0.5)

    assert_cut_from(found, whole_frames(kernels[some], feature, geometry))


def test_frames_too_large_to_be_held_together_come_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels, feature = random_objects()
    geometry = GEOMETRIES["larger"]
    monkeypatch.setattr(crops, "_FRAME_ELEMENTS", 5 * 123 * 205)

    found = frame_crops(kernels, feature, geometry, 0.5)

    assert_cut_from(found, whole_frames(kernels, feature, geometry))


def test_no_objects_have_no_masks() -> None:
    _, feature = random_objects()
    nothing = torch.empty(0, 6), feature

    for boxes, masks in (
        frame_crops(*nothing, GEOMETRIES["larger"], 0.5),
        part_crops(*nothing, torch.empty(0, 24, 40) > 0, GEOMETRIES["larger"], 0.5),
    ):
        assert boxes.shape == (0, 4)
        assert len(masks) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_a_cpu_does() -> None:
    kernels, feature = random_objects()
    geometry = GEOMETRIES["larger"]

    boxes, masks = crop_masks(
        *(kernels.cuda(), feature.cuda()), torch.empty(0, device="cuda"), geometry, 0.5
    )

    for (x1, y1, x2, y2), mask, frame in zip(
        boxes, masks, whole_frames(kernels, feature, geometry), strict=True
    ):
        found = np.zeros_like(frame)
        found[y1:y2, x1:x2] = mask
        assert (found != frame).mean() < 1e-3
