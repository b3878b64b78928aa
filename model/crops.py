"""The masks of kept objects in the pixels of their image, cut to their boxes.

mmdet SOLOV2Head.predict_by_feat upsamples every mask to the padded canvas, cuts the padding off and
resizes to the image. A GPU does just that, some masks at a time, and sends bits. On a CPU it is the
dearest step of all, and most of a frame holds nothing: only the part where a mask can exceed the
threshold is upsampled there.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.structures import BoolMask, Geometry, MaskCrops

MASK_STRIDE = 4
_CHUNK_ELEMENTS = 1 << 22  # mask probabilities held at a time: 16 MiB of float32
_FRAME_ELEMENTS = 1 << 26  # pixels that a GPU holds at a time, or one frame: 256 MiB of float32
_BLOCK_ELEMENTS = 1 << 18  # pixels upsampled at a time: 1 MiB of float32

_Boxes = npt.NDArray[np.int64]


def crop_masks(
    kernels: Tensor, mask_feature: Tensor, binary: Tensor, geometry: Geometry, threshold: float
) -> tuple[_Boxes, MaskCrops]:
    """The masks of N objects, their boxes tight.

    Args:
        kernels: (N, E).
        mask_feature: (E, h, w) of their image, at stride 4.
        binary: (N, h, w) bool, where the masks exceed the threshold at stride 4.
        geometry: Of their image.
        threshold: Probability that a pixel of a mask exceeds.

    Returns:
        (N, 4) half-open xyxy boxes, zeros for an empty mask, and the masks in them.
    """
    if kernels.device.type != "cpu":
        return frame_crops(kernels, mask_feature, geometry, threshold)
    return part_crops(kernels, mask_feature, binary, geometry, threshold)


def mask_probabilities(kernels: Tensor, mask_feature: Tensor) -> Tensor:
    """(M, E) kernels, M >= 1, on (E, h, w) -> (M, h, w) float32 probabilities."""
    weight = kernels[:, :, None, None].to(mask_feature.dtype)
    return F.conv2d(mask_feature[None], weight)[0].float().sigmoid_()


def mask_slices(count: int, mask_feature: Tensor) -> list[slice]:
    """``count`` masks in parts that are small enough to be held as probabilities."""
    return _slices(count, mask_feature[0].numel(), _CHUNK_ELEMENTS)


def _slices(count: int, elements: int, limit: int) -> list[slice]:
    """``count`` things of so many elements each, in parts of ``limit`` elements at most."""
    size = max(1, limit // elements)
    return [slice(start, start + size) for start in range(0, count, size)]


def frame_crops(
    kernels: Tensor, mask_feature: Tensor, geometry: Geometry, threshold: float
) -> tuple[_Boxes, MaskCrops]:
    """``crop_masks`` by whole frames on the device."""
    largest = max(math.prod(geometry.original), math.prod(geometry.canvas))
    boxes = np.zeros((len(kernels), 4), dtype=np.int64)

    def crops() -> Iterator[BoolMask]:
        for chunk in _slices(len(kernels), largest, _FRAME_ELEMENTS):
            probability = mask_probabilities(kernels[chunk], mask_feature)
            frames = _frames(probability, geometry) > threshold
            boxes[chunk] = _extents(frames).cpu().numpy()
            for box, bits in zip(boxes[chunk], _pack_rows(frames).cpu().numpy(), strict=True):
                yield _unpack(bits, box)

    return boxes, MaskCrops.pack(crops())


def _frames(probability: Tensor, geometry: Geometry) -> Tensor:
    """(N, h, w) at stride 4 -> (N, H, W) in the pixels of the image."""
    height, width = geometry.resized
    fine = F.interpolate(
        probability[None], scale_factor=MASK_STRIDE, mode="bilinear", align_corners=False
    )
    fine = fine[:, :, :height, :width]
    if geometry.resized == geometry.original:
        return fine[0]
    return F.interpolate(fine, size=geometry.original, mode="bilinear", align_corners=False)[0]


def _extents(frames: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, 4) tight half-open xyxy, zeros where nothing is true."""
    starts, ends = [], []
    for line in (frames.any(1), frames.any(2)):  # columns, rows
        index = torch.arange(1, line.shape[1] + 1, device=line.device)
        end = (line * index).amax(1)
        start = line.shape[1] - (line * index.flip(0)).amax(1)
        starts.append(start.minimum(end))  # of an empty mask the end is 0
        ends.append(end)
    return torch.stack([*starts, *ends], dim=1)


def _pack_rows(frames: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, H, ceil(W / 8)) uint8, as ``numpy.packbits`` does."""
    count, height, width = frames.shape
    octets = F.pad(frames, (0, -width % 8)).view(count, height, -1, 8)
    places = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=frames.device)
    return (octets * places).sum(3, dtype=torch.uint8)


def _unpack(bits: npt.NDArray[np.uint8], box: _Boxes) -> BoolMask:
    """The part of a frame of packed rows that lies in a box."""
    x1, y1, x2, y2 = box.tolist()
    first = x1 // 8
    part = np.unpackbits(bits[y1:y2, first : -(-x2 // 8)], axis=1).view(np.bool_)
    return part[:, x1 - 8 * first : x2 - 8 * first]


def part_crops(
    kernels: Tensor, mask_feature: Tensor, binary: Tensor, geometry: Geometry, threshold: float
) -> tuple[_Boxes, MaskCrops]:
    """``crop_masks`` by no more of the frame than a mask needs, on a CPU."""
    height, width = mask_feature.shape[1:]
    rows = _Axis.compose(height, geometry.resized[0], geometry.original[0])
    columns = _Axis.compose(width, geometry.resized[1], geometry.original[1])
    occupied = binary.numpy()
    row_extents, column_extents = (_spans(np.any(occupied, axis=axis)) for axis in (2, 1))
    extents = zip(row_extents, column_extents, strict=True)
    boxes = np.zeros((len(kernels), 4), dtype=np.int64)

    def crops() -> Iterator[BoolMask]:
        for chunk in mask_slices(len(kernels), mask_feature):
            probabilities = mask_probabilities(kernels[chunk], mask_feature)
            for box, probability in zip(boxes[chunk], probabilities, strict=True):
                box[:], mask = _crop(probability, rows, columns, *next(extents), threshold)
                yield mask

    return boxes, MaskCrops.pack(crops())


def _spans(occupied: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
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
