from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from model.training.targets import (
    Targets,
    assign_targets,
    centres_of_mass,
    merge_targets,
    quarter_masks,
)

GRIDS = (8, 6, 4)
RANGES = ((1.0, 24.0), (12.0, 48.0), (24.0, 96.0))
BACKGROUND = 3


def assign(masks: Tensor, boxes: Tensor, labels: Tensor) -> Targets:
    return assign_targets(
        masks, boxes, labels, num_grids=GRIDS, scale_ranges=RANGES, num_classes=BACKGROUND
    )


def random_objects(number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ellipses of many sizes on a 96x64 canvas, some of them cut by its edge."""
    rng = np.random.default_rng(seed)
    masks, boxes = np.zeros((number, 96, 64), dtype=np.uint8), np.zeros((number, 4), np.float32)
    for mask, box in zip(masks, boxes, strict=True):
        centre = [int(rng.integers(64)), int(rng.integers(96))]
        axes = [int(a) for a in rng.integers(1, 40, 2)]
        cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 1, -1)
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    labels = torch.from_numpy(rng.integers(0, BACKGROUND, number))
    return torch.from_numpy(masks.astype(bool)), torch.from_numpy(boxes), labels


def loop_assign(
    masks: Tensor, boxes: Tensor, labels: Tensor, grids: Any = GRIDS, ranges: Any = RANGES
) -> tuple[list[Any], list[Any]]:
    """Per grid: label map, and (cell, object) pairs; object by object, as one would by hand."""
    one, height, width = np.float32(1), *masks.shape[1:]
    maps, pairs = [], []
    for grid, (low, high) in zip(grids, ranges, strict=True):
        label_map, found = np.full((grid, grid), BACKGROUND), []
        for n, (x1, y1, x2, y2) in enumerate(boxes.numpy()):
            if not low <= np.sqrt((x2 - x1) * (y2 - y1)) <= high:
                continue
            ys, xs = masks[n].numpy().nonzero()
            spans = []
            for index, half, side in (
                (ys, one / 2 * (y2 - y1) * np.float32(0.2), height),
                (xs, one / 2 * (x2 - x1) * np.float32(0.2), width),
            ):
                centre = np.float32(index.sum()) / np.float32(len(index))
                cell, first, last = (
                    int(np.float32(v) / np.float32(side) / np.float32(1 / grid))
                    for v in (centre, centre - half, centre + half)
                )
                low_cell, high_cell = max(first, 0, cell - 1), min(last, grid - 1, cell + 1)
                spans.append(range(low_cell, high_cell + 1))
            for y in spans[0]:
                for x in spans[1]:
                    label_map[y, x] = labels[n]
                    found.append((y * grid + x, n))
        maps.append(label_map)
        pairs.append(found)
    return maps, pairs


def test_targets_are_the_originals_bit_for_bit(case: Any) -> None:
    for image in range(case.batch):
        targets = case.targets(image)
        cells = targets.cells[targets.pairs[:, 0]]
        masks = targets.masks[targets.pairs[:, 1]]
        start = 0
        for level, grid in enumerate(case.meta["num_grids"]):
            key = f"gt{image}/lvl{level}"
            here = (cells >= start) & (cells < start + grid * grid)
            labels = targets.labels[0, start : start + grid * grid]
            assert torch.equal(labels.view(grid, grid), case.tensor(f"{key}/labels"))
            assert torch.equal(cells[here] - start, case.tensor(f"{key}/pos_index"))
            assert torch.equal(masks[here].bool(), case.bits(f"{key}/mask_targets"))
            start += grid * grid


@pytest.mark.parametrize("seed", range(20))
def test_cells_and_labels_are_what_the_loop_finds(seed: int) -> None:
    objects = random_objects(12, seed)

    targets = assign(*objects)

    maps, pairs = loop_assign(*objects)
    starts = np.cumsum([0, *(grid * grid for grid in GRIDS)])
    assert targets.labels[0].tolist() == np.concatenate([m.ravel() for m in maps]).tolist()
    assert [(int(targets.cells[row]), n) for row, n in targets.pairs.tolist()] == [
        (cell + start, n) for found, start in zip(pairs, starts, strict=False) for cell, n in found
    ]
    assert len(targets.cells.unique()) == len(targets.cells) == targets.num_positives


@pytest.mark.parametrize("flips", [(), (1,), (2,), (1, 2)])
@pytest.mark.parametrize("edge", [(0, slice(None)), (slice(None), 0)], ids=["row", "column"])
def test_cells_end_at_the_canvas(edge: Any, flips: tuple[int, ...]) -> None:
    """A line along the edge and a pixel far away: the centre region reaches over the edge."""
    mask = torch.zeros(1, 96, 64, dtype=torch.bool)
    mask[0][edge] = True
    mask[0, 95, 63] = True
    objects = mask.flip(flips), torch.tensor([[0.0, 0.0, 64.0, 96.0]]), torch.tensor([1])
    grids, ranges = (36,), ((1.0, 100.0),)

    targets = assign_targets(*objects, num_grids=grids, scale_ranges=ranges, num_classes=BACKGROUND)

    _, [pairs] = loop_assign(*objects, grids, ranges)
    assert sorted(targets.cells.tolist()) == sorted(cell for cell, _ in pairs)


def test_a_picture_without_objects_is_all_background() -> None:
    targets = assign(
        torch.zeros(0, 96, 64, dtype=torch.bool), torch.zeros(0, 4), torch.zeros(0).long()
    )

    assert (targets.labels == BACKGROUND).all()
    assert targets.num_positives == 0
    assert targets.pairs.shape == (0, 2)
    assert targets.masks.shape == (0, 24, 16)


def test_the_later_object_names_a_shared_cell_and_both_keep_their_mask() -> None:
    masks, boxes, _ = random_objects(1, seed=1)

    targets = assign(masks.repeat(2, 1, 1), boxes.repeat(2, 1), torch.tensor([0, 2]))

    assert set(targets.labels.unique().tolist()) == {2, BACKGROUND}
    assert len(targets.pairs) == 2 * targets.num_positives


def test_objects_without_a_pixel_are_left_out() -> None:
    masks, boxes, labels = random_objects(3, seed=2)
    masks[1] = False

    targets = assign(masks, boxes, labels)

    others = torch.tensor([0, 2])
    wanted = assign(masks[others], boxes[others], labels[others])
    assert torch.equal(targets.labels, wanted.labels)
    assert torch.equal(targets.pairs, wanted.pairs)


def test_the_centre_of_mass_is_the_mean_pixel_index() -> None:
    masks, _, _ = random_objects(5, seed=4)

    centres = centres_of_mass(masks)

    wanted = torch.stack([mask.nonzero().double().mean(0) for mask in masks])
    torch.testing.assert_close(centres.double(), wanted)


def test_mask_targets_are_opencvs_quarter_size() -> None:
    masks = np.random.default_rng(0).random((20, 64, 96)) > 0.5

    quarter = quarter_masks(torch.from_numpy(masks))

    wanted = [cv2.resize(m.astype(np.uint8), (24, 16)) for m in masks]
    assert np.array_equal(quarter.numpy(), np.stack(wanted))


def test_merged_targets_are_each_pictures_own() -> None:
    first = assign(*random_objects(4, seed=5))
    second = assign(*random_objects(2, seed=6))

    merged = merge_targets([first, second])

    assert torch.equal(merged.labels, torch.cat([first.labels, second.labels]))
    for parts, single in zip(merged.per_image(), (first, second), strict=True):
        for part, wanted in zip(parts, (single.cells, single.pairs, single.masks), strict=True):
            assert torch.equal(part, wanted)
