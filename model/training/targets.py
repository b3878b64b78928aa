"""Which grid cells answer for which object, and what their masks should be.

The assignment is the original's (mmdet/models/dense_heads/solov2_head.py): bit for bit the same
cells, labels and mask targets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from model.config import ScaleRanges

CENTRE_REGION = 0.2  # of the box's sides: cells there are positive (paper section 3.3.1)
MASK_STRIDE = 4  # of the mask feature


@dataclass(frozen=True, slots=True)
class Targets:
    """What the network should say about B images; T is the number of cells of all five grids.

    Everything but ``labels`` is concatenated image by image, with the lengths in the
    ``*_per_image`` fields: few large tensors travel from a loader process faster than many
    small ones.
    """

    labels: Tensor  # (B, T) int64 class of each cell, C for background
    cells: Tensor  # (K,) int64 distinct positive cells, each in [0, T) of its own image
    pairs: Tensor  # (P, 2) int64 (row of cells, row of masks), counted within the image
    masks: Tensor  # (M, h, w) uint8, 0 or 1
    cells_per_image: tuple[int, ...]
    pairs_per_image: tuple[int, ...]
    masks_per_image: tuple[int, ...]

    @property
    def num_positives(self) -> int:
        """K: a cell claimed by two objects counts once."""
        return len(self.cells)

    def per_image(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """``cells``, ``pairs`` and ``masks`` of each image."""
        return zip(
            torch.split(self.cells, list(self.cells_per_image)),
            torch.split(self.pairs, list(self.pairs_per_image)),
            torch.split(self.masks, list(self.masks_per_image)),
            strict=True,
        )

    def to(self, device: torch.device) -> Self:
        return replace(
            self,
            labels=self.labels.to(device, non_blocking=True),
            cells=self.cells.to(device, non_blocking=True),
            pairs=self.pairs.to(device, non_blocking=True),
            masks=self.masks.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Self:
        return replace(
            self,
            labels=self.labels.pin_memory(),
            cells=self.cells.pin_memory(),
            pairs=self.pairs.pin_memory(),
            masks=self.masks.pin_memory(),
        )


def assign_targets(
    masks: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    num_grids: tuple[int, ...],
    scale_ranges: ScaleRanges,
    num_classes: int,
) -> Targets:
    """Targets of one image.

    An object belongs to every grid whose scale range holds the square root of its box area;
    the ranges overlap, so that may be two grids. Its cells are those of the centre region
    around its centre of mass, at most 3x3. Where objects share a cell the later one names the
    class, and each keeps its mask target. Objects without a pixel are left out.

    Args:
        masks: (N, H, W) bool on the padded canvas, sides multiples of 32.
        boxes: (N, 4) float32 xyxy in canvas pixels.
        labels: (N,) int64 in [0, C).
        num_grids: Cells along each grid, finest first.
        scale_ranges: Smallest and largest size for each grid, both inclusive.
        num_classes: C, which is also the background's label.
    """
    present = masks.flatten(1).any(1)
    masks, boxes, labels = masks[present], boxes[present], labels[present]
    centres = centres_of_mass(masks) / torch.tensor(masks.shape[1:])
    sides = boxes[:, [3, 2]] - boxes[:, [1, 0]]  # height, width
    reach = 0.5 * sides * CENTRE_REGION
    corners = torch.stack(
        [centres_of_mass(masks) - reach, centres_of_mass(masks) + reach]
    ) / torch.tensor(masks.shape[1:])
    size = (sides[:, 0] * sides[:, 1]).sqrt()

    found, start = [], 0
    for grid, (low, high) in zip(num_grids, scale_ranges, strict=True):
        pairs = _positive_cells(centres, corners, (size >= low) & (size <= high), grid)
        found.append(pairs + torch.tensor([0, start]))
        start += grid * grid
    objects, cells = torch.cat(found).unbind(1)
    distinct, rows = torch.unique(cells, return_inverse=True)
    return Targets(
        labels=_cell_labels(objects, cells, labels, start, num_classes)[None],
        cells=distinct,
        pairs=torch.stack([rows, objects], dim=1),
        masks=quarter_masks(masks),
        cells_per_image=(len(distinct),),
        pairs_per_image=(len(cells),),
        masks_per_image=(len(masks),),
    )


def centres_of_mass(masks: Tensor) -> Tensor:
    """(N, H, W) bool, none empty -> (N, 2) float32 mean (row, column) index of the pixels."""
    height, width = masks.shape[1:]
    rows, columns = masks.sum(2), masks.sum(1)  # (N, H), (N, W) pixel counts
    totals = torch.stack(
        [(rows * torch.arange(height)).sum(1), (columns * torch.arange(width)).sum(1)], dim=1
    )
    return totals / rows.sum(1, keepdim=True).float()


def _positive_cells(centres: Tensor, corners: Tensor, eligible: Tensor, grid: int) -> Tensor:
    """(P, 2) int64 (object, cell of this grid), object by object, cells in row-major order.

    Args:
        centres: (N, 2) float32 (y, x) as fractions of the canvas.
        corners: (2, N, 2) float32, top left and bottom right of the centre regions.
        eligible: (N,) bool, objects of this grid's scale range.
        grid: S.
    """

    def cell(fraction: Tensor) -> Tensor:
        # Divided rather than multiplied by S, and in float32: at a cell's edge the rounding
        # decides the cell, and it has to be the original's.
        return torch.div(fraction, 1 / grid, rounding_mode="trunc").long()

    around = torch.arange(-1, 2)
    candidates = cell(centres)[:, :, None] + around  # (N, 2, 3)
    inside = (candidates >= cell(corners[0]).clamp(min=0)[:, :, None]) & (
        candidates <= cell(corners[1]).clamp(max=grid - 1)[:, :, None]
    )
    chosen = inside[:, 0, :, None] & inside[:, 1, None, :] & eligible[:, None, None]
    objects, y, x = chosen.nonzero().unbind(1)
    return torch.stack(
        [objects, candidates[objects, 0, y] * grid + candidates[objects, 1, x]], dim=1
    )


def _cell_labels(
    objects: Tensor, cells: Tensor, labels: Tensor, num_cells: int, background: int
) -> Tensor:
    """(T,) int64: the class of the last object that claims each cell."""
    last = torch.full((num_cells,), -1).scatter_reduce(0, cells, objects, "amax")
    claimed = last >= 0
    result = torch.full((num_cells,), background)
    result[claimed] = labels[last[claimed]]
    return result


def quarter_masks(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, h, w) uint8: what ``cv2.resize`` by 1/4 with INTER_LINEAR gives.

    That samples between the two middle pixels of four, on both axes, and rounds half up.
    """
    pixels = masks.byte()
    middle = pixels[:, 1::4] + pixels[:, 2::4]
    return (middle[:, :, 1::4] + middle[:, :, 2::4] >= 2).byte()


def merge_targets(targets: Sequence[Targets]) -> Targets:
    """Targets of single images with one canvas -> targets of the batch."""
    return Targets(
        labels=torch.cat([t.labels for t in targets]),
        cells=torch.cat([t.cells for t in targets]),
        pairs=torch.cat([t.pairs for t in targets]),
        masks=torch.cat([t.masks for t in targets]),
        cells_per_image=tuple(n for t in targets for n in t.cells_per_image),
        pairs_per_image=tuple(n for t in targets for n in t.pairs_per_image),
        masks_per_image=tuple(n for t in targets for n in t.masks_per_image),
    )
