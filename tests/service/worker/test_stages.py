import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.checkpoint import CheckpointError
from model.structures import ImageBatch, Instances, MaskCrops
from service.errors import BadImageError
from service.settings import Settings
from service.worker.stages import InstancePredictor, Stages, load_predictor

Encode = Callable[..., bytes]


def test_an_image_becomes_the_json_of_what_is_in_it(
    fake_predictor: InstancePredictor, photo: bytes
) -> None:
    fragment = Stages(fake_predictor, Settings()).score(photo)

    (found,) = json.loads(fragment)["boxes"]
    assert found["label"] == "person"
    assert found["box"] == {"topX": 0.25, "topY": 0.25, "bottomX": 0.75, "bottomY": 0.75}


def test_the_predictor_sees_rgb_and_the_orientation_setting_counts(
    fake_predictor: InstancePredictor, encode: Encode
) -> None:
    seen: list[np.ndarray] = []

    class Watching:
        config = fake_predictor.config
        predict_batch = staticmethod(fake_predictor.predict_batch)

        def prepare(self, images: Sequence[np.ndarray]) -> ImageBatch:
            seen.extend(images)
            return fake_predictor.prepare(images)

    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (40, 20), (255, 0, 0)), "PNG", exif=exif)

    Stages(Watching(), Settings()).score(data)
    Stages(Watching(), Settings(apply_exif=True)).score(data)

    assert [image.shape for image in seen] == [(20, 40, 3), (40, 20, 3)]
    assert seen[0][0, 0].tolist() == [255, 0, 0]


def test_the_tolerance_setting_decides_how_many_points_are_sent(
    fake_predictor: InstancePredictor,
) -> None:
    rows, columns = np.ogrid[:200, :200]
    disc = (rows - 100) ** 2 + (columns - 100) ** 2 <= 80**2
    found = Instances(
        np.array([0.9], np.float32),
        np.array([0]),
        np.array([(20, 20, 181, 181)]),
        MaskCrops.pack([disc[20:181, 20:181]]),
        200,
        200,
    )

    exact, rough = (
        Stages(fake_predictor, Settings(polygon_tolerance_px=tolerance)).encode(found)
        for tolerance in (0.5, 3)
    )

    assert len(exact) > len(rough)


def test_an_image_too_long_and_thin_for_the_model_is_the_clients_mistake(
    fake_predictor: InstancePredictor, encode: Encode
) -> None:
    with pytest.raises(BadImageError, match="too long and thin"):
        Stages(fake_predictor, Settings()).decode(encode(Image.new("L", (1, 5000)), "PNG"))


@pytest.mark.parametrize(("limit", "refused"), [(64 * 48, False), (64 * 48 - 1, True)])
def test_the_limit_on_pixels_holds_in_the_decoder_too(
    fake_predictor: InstancePredictor, photo: bytes, limit: int, refused: bool
) -> None:
    stages = Stages(fake_predictor, Settings(max_image_pixels=limit))

    if refused:
        with pytest.raises(BadImageError, match="64x48 pixels, more than the limit"):
            stages.decode(photo)
    else:
        assert stages.decode(photo).geometries[0].original == (48, 64)


def test_what_cannot_be_decoded_is_the_clients_mistake(fake_predictor: InstancePredictor) -> None:
    with pytest.raises(BadImageError, match="not a JPEG"):
        Stages(fake_predictor, Settings()).decode(b"no image")


def test_a_shortage_of_memory_is_ours(
    fake_predictor: InstancePredictor, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode_image(data: bytes, **options: object) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr("service.worker.stages.decode_image", decode_image)

    with pytest.raises(MemoryError):
        Stages(fake_predictor, Settings()).decode(photo)


def test_a_loaded_model_scores_with_the_thresholds_of_the_settings(
    tiny_weights: Path, photo: bytes
) -> None:
    found, nothing = (
        json.loads(Stages(load_predictor(settings, "cpu"), settings).score(photo))["boxes"]
        for settings in (
            Settings(weights=tiny_weights, score_threshold=threshold) for threshold in (0.05, 1)
        )
    )

    assert found
    assert {one["label"] for one in found} <= {"person", "cat"}
    assert nothing == []


def test_weights_and_devices_that_cannot_be_used_are_refused(
    tiny_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError):
        load_predictor(Settings(weights=tmp_path / "none.safetensors"), "cpu")
    with pytest.raises(ValueError, match="no device cuda:99"):
        load_predictor(Settings(weights=tiny_weights), "cuda:99")
