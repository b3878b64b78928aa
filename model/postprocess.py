"""Raw network output -> instances (mmdet SOLOV2Head.predict_by_feat, in its exact order).

What differs from the original is the cost, not the result. Candidates that share a grid cell share
its mask, so one dynamic convolution serves them all. Masks of different classes are never compared.
And no mask is ever made in the size of its image: only the part of the frame where a mask can
exceed the threshold is upsampled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import InferenceConfig
from model.matrix_nms import matrix_nms
from model.structures import BoolMask, Geometry, Instances, MaskCrops, SOLOv2Output

MASK_STRIDE = 4
LEVEL_STRIDES = (8, 8, 16, 32, 32)  # a cell's mask needs more stride-4 pixels than this
CHUNK_ELEMENTS = 1 << 22  # mask probabilities held at a time: 16 MiB of float32
_BLOCK_ELEMENTS = 1 << 18  # pixels upsampled at a time: 1 MiB of float32

_FloatArray = npt.NDArray[np.float32]
_IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """K objects that one image may show, best first, at stride 4."""

    scores: Tensor  # (K,) float, descending
    labels: Tensor  # (K,) int64
    kernels: Tensor  # (K, E)
    masks: Tensor  # (K, h, w) bool

    def __len__(self) -> int:
        return len(self.scores)


def postprocess(
    output: SOLOv2Output, geometries: Sequence[Geometry], config: InferenceConfig
) -> list[Instances]:
    """One ``Instances`` per image of the batch, in the pixels of the original images."""
    images = zip(find_candidates(output, config), output.mask_feature, geometries, strict=True)
    return [
        crop(suppress(candidates, config), mask_feature, geometry, config)
        for candidates, mask_feature, geometry in images
    ]


def find_candidates(output: SOLOv2Output, config: InferenceConfig) -> Iterator[Candidates]:
    """What each image of the batch may show, before Matrix NMS."""
    scores = torch.cat(
        [_cells_first(points_nms(level.float().sigmoid())) for level in output.categories], dim=1
    )  # (B, cells, C)
    kernels = torch.cat([_cells_first(level) for level in output.kernels], dim=1)
    strides = torch.cat(
        [
            torch.full((level.shape[-1] ** 2,), float(stride), device=scores.device)
            for level, stride in zip(output.categories, LEVEL_STRIDES, strict=True)
        ]
    )
    for image in zip(scores, kernels, output.mask_feature, strict=True):
        yield _image_candidates(*image, strides, config)


def points_nms(scores: Tensor) -> Tensor:
    """Zero each score that its upper, left or upper-left neighbour exceeds.

    (B, C, S, S) -> same. The window is the original's: 2x2, not centred; ties survive.
    """
    best = F.max_pool2d(scores, kernel_size=2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (best == scores)


def _cells_first(level: Tensor) -> Tensor:
    """(B, c, S, S) -> (B, S*S, c), cells row by row."""
    return level.flatten(2).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class _CellMasks:
    """The masks of M distinct grid cells at stride 4."""

    binary: Tensor  # (M, h, w) bool
    area: Tensor  # (M,) float, pixels
    maskness: Tensor  # (M,) float, mean probability inside the mask


def _image_candidates(
    scores: Tensor,
    kernels: Tensor,
    mask_feature: Tensor,
    strides: Tensor,
    config: InferenceConfig,
) -> Candidates:
    cell, label = (scores > config.candidate_threshold).nonzero(as_tuple=True)
    cells, mask_of = torch.unique(cell, return_inverse=True)
    masks = _cell_masks(kernels[cells], mask_feature, config.mask_threshold)

    large = masks.area[mask_of] > strides[cell]
    cell, label, mask_of = cell[large], label[large], mask_of[large]
    rescored = scores[cell, label] * masks.maskness[mask_of]

    rescored, order = rescored.sort(descending=True)
    rescored, order = (x[: config.candidates_before_nms] for x in (rescored, order))
    return Candidates(rescored, label[order], kernels[cell[order]], masks.binary[mask_of[order]])


def suppress(candidates: Candidates, config: InferenceConfig) -> Candidates:
    """Those that Matrix NMS leaves above the threshold, with their decayed scores."""
    decayed = matrix_nms(
        candidates.masks,
        candidates.labels,
        candidates.scores,
        kernel=config.nms_kernel,
        sigma=config.nms_sigma,
    )
    above = (decayed >= config.score_threshold).nonzero()[:, 0]
    final, order = decayed[above].sort(descending=True)
    keep = above[order][: config.max_instances]
    return Candidates(
        final[: config.max_instances],
        candidates.labels[keep],
        candidates.kernels[keep],
        candidates.masks[keep],
    )


def crop(
    candidates: Candidates, mask_feature: Tensor, geometry: Geometry, config: InferenceConfig
) -> Instances:
    """Candidates in the pixels of their image, whose mask feature is (E, h, w)."""
    boxes, crops = _mask_crops(
        candidates.kernels, mask_feature, candidates.masks, geometry, config.mask_threshold
    )
    return Instances(
        scores=candidates.scores.cpu().numpy(),
        labels=candidates.labels.cpu().numpy(),
        boxes=boxes,
        masks=crops,
        height=geometry.original[0],
        width=geometry.original[1],
    )


def _mask_probabilities(kernels: Tensor, mask_feature: Tensor) -> Tensor:
    """(M, E) kernels, M >= 1, on (E, h, w) -> (M, h, w) float32 probabilities."""
    weight = kernels[:, :, None, None].to(mask_feature.dtype)
    return F.conv2d(mask_feature[None], weight)[0].float().sigmoid_()


def _chunks(count: int, mask_feature: Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // mask_feature[0].numel())
    return [slice(start, start + size) for start in range(0, count, size)]


def _cell_masks(kernels: Tensor, mask_feature: Tensor, threshold: float) -> _CellMasks:
    count, device = len(kernels), kernels.device
    binary = torch.empty((count, *mask_feature.shape[1:]), dtype=torch.bool, device=device)
    area, maskness = (torch.empty(count, device=device) for _ in range(2))
    for chunk in _chunks(count, mask_feature):
        probability = _mask_probabilities(kernels[chunk], mask_feature)
        inside = F.threshold(probability, threshold, 0.0, inplace=True)
        total = inside.sum((1, 2))
        # Sums of floats are vectorised, those of bools are not: 0 stays 0, all others become 1.
        area[chunk] = inside.ceil_().sum((1, 2))
        binary[chunk] = inside > 0
        # An empty mask has maskness 0/0; its area keeps it from going any further.
        maskness[chunk] = total / area[chunk]
    return _CellMasks(binary, area, maskness)


def _mask_crops(
    kernels: Tensor, mask_feature: Tensor, binary: Tensor, geometry: Geometry, threshold: float
) -> tuple[npt.NDArray[np.int64], MaskCrops]:
    """The (N, h, w) stride-4 masks of these (N, E) kernels as (N, 4) boxes and crops."""
    height, width = mask_feature.shape[1:]
    rows = _Axis.compose(height, geometry.resized[0], geometry.original[0])
    columns = _Axis.compose(width, geometry.resized[1], geometry.original[1])
    occupied = binary.cpu().numpy()
    row_extents, column_extents = (_extents(np.any(occupied, axis=axis)) for axis in (2, 1))
    extents = zip(row_extents, column_extents, strict=True)
    boxes = np.zeros((len(kernels), 4), dtype=np.int64)

    def crops() -> Iterator[BoolMask]:
        for chunk in _chunks(len(kernels), mask_feature):
            probabilities = _mask_probabilities(kernels[chunk], mask_feature).cpu()
            for box, probability in zip(boxes[chunk], probabilities, strict=True):
                box[:], mask = _crop(probability, rows, columns, *next(extents), threshold)
                yield mask

    return boxes, MaskCrops.pack(crops())


def _extents(occupied: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(N, n) bool, each row with a true -> first true and one past the last true."""
    first = occupied.argmax(1)
    end = occupied.shape[1] - occupied[:, ::-1].argmax(1)
    return list(zip(first.tolist(), end.tolist(), strict=True))


def _crop(
    probability: Tensor,
    rows: "_Axis",
    columns: "_Axis",
    row_extent: tuple[int, int],
    column_extent: tuple[int, int],
    threshold: float,
) -> tuple[tuple[int, int, int, int], BoolMask]:
    """Upsample the part of one (h, w) mask that matters; tighten it to its exact box."""
    y, x = rows.reach(*row_extent), columns.reach(*column_extent)
    mask = np.empty((len(y), len(x)), dtype=np.bool_)
    if mask.size > 0:
        wide = columns.resize(probability.T, x).T.contiguous()  # (h, pixels)
        step = max(1, _BLOCK_ELEMENTS // len(x))
        for start in range(0, len(y), step):
            _fill(mask[start : start + step], wide, rows, y[start : start + step], threshold)
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(ys) == 0:
        return (0, 0, 0, 0), np.zeros((0, 0), dtype=np.bool_)
    top, bottom, left, right = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    box = (x.start + left, y.start + top, x.start + right, y.start + bottom)
    return box, mask[top:bottom, left:right]


def _fill(block: BoolMask, wide: Tensor, rows: "_Axis", pixels: range, threshold: float) -> None:
    """Write rows ``pixels`` of a mask that is upsampled along its rows, (h, x), into a block.

    A pixel lies between the cells above and below it. Where those of a column are all above the
    threshold, or none is, so are its pixels; sums are left to the mask's edge.
    """
    cells = rows.span(pixels)
    near = wide[cells.start : cells.stop]
    lines = near.numpy()
    above = lines.min(0) > threshold
    (edge,) = np.nonzero(~above & (lines.max(0) > threshold))
    if len(edge) > len(above) // 2:  # picking columns would cost more than it saves
        np.greater(rows.resize(near, pixels, first=cells.start).numpy(), threshold, out=block)
        return
    block[:] = above
    if len(edge) > 0:
        sums = rows.resize(torch.from_numpy(lines[:, edge]), pixels, first=cells.start)
        block[:, edge] = sums.numpy() > threshold


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of the way from stride-4 cells to image pixels.

    The original upsamples by four, cuts the padding off, then resizes to the image; both resizes
    are bilinear. Each is linear and separable, so per axis a pixel is a weighted sum of three
    neighbouring cells, or of two where the image was not resized.
    """

    cells: Tensor  # (pixels, 2 or 3) int64, lowest first
    shares: Tensor  # (pixels, 2 or 3) float32

    @classmethod
    def compose(cls, cells: int, resized: int, original: int) -> "_Axis":
        fine_low, _, fine_share = _bilinear_taps(cells, cells * MASK_STRIDE)
        low, high, share = _bilinear_taps(resized, original)
        shares = torch.zeros(original, 3)
        for tap, part in ((low, 1 - share), (high, share)):
            second = fine_low[tap] - fine_low[low]  # whether it starts at the second cell
            for offset, weight in ((0, 1 - fine_share[tap]), (1, fine_share[tap])):
                shares[torch.arange(original), second + offset] += part * weight
        neighbours = fine_low[low][:, None] + torch.arange(3)
        used = slice(0, 3 if shares[:, 2].any() else 2)
        return cls(
            neighbours.clamp(max=cells - 1)[:, used].contiguous(), shares[:, used].contiguous()
        )

    def reach(self, start: int, end: int) -> range:
        """Pixels that cells ``start`` to ``end - 1`` can colour; none if they lie in padding."""
        lowest, *_, highest = self.cells.T.numpy()
        first = int(np.searchsorted(highest, start))
        return range(first, max(first, int(np.searchsorted(lowest, end))))

    def span(self, pixels: range) -> range:
        """The cells that these pixels are sums of."""
        return range(int(self.cells[pixels[0], 0]), int(self.cells[pixels[-1], -1]) + 1)

    def resize(self, lines: Tensor, pixels: range, *, first: int = 0) -> Tensor:
        """(cells, n), the lines from cell ``first`` on -> (pixels, n), those pixels alone.

        ``embedding_bag`` is a weighted sum of rows of a table: vectorised, and no row that has no
        share is read.
        """
        part = slice(pixels.start, pixels.stop)
        return F.embedding_bag(
            self.cells[part] - first,
            lines.contiguous(),
            per_sample_weights=self.shares[part],
            mode="sum",
        )


def _bilinear_taps(size: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower tap, upper tap and the upper's weight of ``F.interpolate(align_corners=False)``."""
    scale = torch.tensor(size / target, dtype=torch.float32)
    source = ((torch.arange(target, dtype=torch.float32) + 0.5) * scale - 0.5).clamp(min=0)
    low = source.long().clamp(max=size - 1)
    return low, (low + 1).clamp(max=size - 1), (source - low).clamp(max=1)
