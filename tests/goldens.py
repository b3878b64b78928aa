"""Reference outputs, and the seeded weights and the picture they were made with."""

import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from model.config import VARIANTS
from model.convert_mmdet import convert_state_dict
from model.solov2 import SOLOv2, build_solov2

GOLDEN = Path(__file__).parent / "golden"
REFERENCE = Path(
    os.environ.get("SOLOV2_REFERENCE_DIR", Path(__file__).resolve().parents[2] / "shared")
)
OFFICIAL = ("r50_3x", "r101_3x", "r101_dcn_3x", "x101_dcn_3x", "light_r18_3x", "light_r34_3x")
OFFICIAL += ("light_r50_3x", "light_r50_dcn_3x")


@dataclass(frozen=True)
class Golden:
    arrays: Mapping[str, Any]
    meta: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def levels(self, name: str) -> tuple[Tensor, ...]:
        return tuple(self.tensor(f"{name}{level}") for level in range(5))

    def bits(self, name: str) -> np.ndarray:
        """A bool array that was stored as packed bits beside its shape."""
        shape = self.arrays[f"{name.removesuffix('_packed')}_shape"]
        return np.unpackbits(self.arrays[name])[: np.prod(shape)].reshape(shape).astype(bool)


def load(path: Path) -> Golden:
    with np.load(path) as file:
        arrays = dict(file)
    meta = json.loads(bytes(arrays["meta"])) if "meta" in arrays else {}
    return Golden(arrays, meta)


def final_masks(golden: Golden) -> np.ndarray:
    """(N, H, W) bool: the original's masks in the picture's frame."""
    size = golden.meta["metainfo"]["ori_shape"]
    counts = json.loads(bytes(golden["mask_rle"]))
    masks = [coco_mask.decode({"size": size, "counts": c.encode()}) for c in counts]
    return np.array(masks, dtype=bool).reshape(-1, *size)


def picture(height: int = 150, width: int = 200) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a colour ramp under twelve seeded discs."""
    y, x = np.mgrid[:height, :width]
    ramps = (x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height))
    blue_green_red = np.stack(ramps, axis=-1)
    random = np.random.RandomState(7)
    for _ in range(12):
        row, column = random.randint(0, height), random.randint(0, width)
        radius = random.randint(8, 40)
        disc = (y - row) ** 2 + (x - column) ** 2 < radius**2
        blue_green_red[disc] = random.randint(0, 256, 3)
    return np.ascontiguousarray(blue_green_red[:, :, ::-1].astype(np.uint8))


def official_keys(variant: str) -> dict[str, tuple[int, ...]]:
    keys = json.loads((GOLDEN / "keys.json").read_text())[variant]
    return {key: tuple(shape) for key, shape in keys.items()}


def seeded_network(golden: Golden) -> SOLOv2:
    """The network of a golden, with the very weights the original had."""
    variant = golden.meta["variant"]
    state = seeded_state_dict(official_keys(variant), golden.meta["seed"], golden.meta["profile"])
    assert digest(state) == golden.meta["weights_sha256"]
    with torch.device("meta"):
        model = build_solov2(VARIANTS[variant])
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(convert_state_dict(state, shapes), assign=True)
    return model.eval().requires_grad_(False)


def seeded_state_dict(
    shapes: Mapping[str, tuple[int, ...]], seed: int, profile: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Official-looking weights drawn tensor by tensor, so that no order matters."""
    settings = _Profile(**{k: tuple(v) if isinstance(v, list) else v for k, v in profile.items()})
    basic_blocks = not any(".bn3." in key for key in shapes)
    return {
        key: _seeded_tensor(key, shape, seed, settings, basic_blocks)
        for key, shape in sorted(shapes.items())
    }


def digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and values, names in order."""
    sha = hashlib.sha256()
    for key, value in sorted(state.items()):
        array = value.contiguous().numpy()
        sha.update(f"{key}|{array.dtype.str}|{array.shape}|".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


@dataclass(frozen=True)
class _Profile:
    """Knobs that keep activations sane and decide how much is detected."""

    cls_gain: float = 1.0
    cls_bias: float = -4.5
    kernel_gain: float = 1.0
    kernel_bias: float = 0.0
    coord_gain: float = 12.0
    offset_gain: float = 0.6
    level_gn: tuple[float, ...] = (0.25, 0.45, 0.8, 1.4)


def _seeded_tensor(
    key: str, shape: tuple[int, ...], seed: int, p: _Profile, basic_blocks: bool
) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    low, high, shift = _range(key, shape, p, basic_blocks)
    stream = np.random.RandomState((zlib.crc32(key.encode()) + 0x9E3779B1 * seed) % 2**32)
    uniform = stream.random_sample(math.prod(shape))
    value = torch.from_numpy((low + (high - low) * uniform).astype(np.float32)).reshape(shape)
    if shift:
        value = value + shift
    if shape[1:2] == (258,) and "conv_offset" not in key:  # the last two see coordinates
        value[:, -2:] *= p.coord_gain
    return value


def _range(
    key: str, shape: tuple[int, ...], p: _Profile, basic_blocks: bool
) -> tuple[float, float, float]:
    """(low, high, shift) of the uniform distribution of one tensor."""
    for pattern, spread in _ranges(shape, p, basic_blocks):
        if re.search(pattern, key):
            return spread if len(spread) == 3 else (*spread, 0.0)
    raise KeyError(key)


def _std(value: float) -> tuple[float, float]:
    half = math.sqrt(3.0) * value
    return -half, half


def _ranges(
    shape: tuple[int, ...], p: _Profile, basic_blocks: bool
) -> Iterator[tuple[str, tuple[float, ...]]]:
    fan_in = math.prod(shape[1:])
    he = math.sqrt(2.0 / fan_in)
    yield r"running_mean$", (-0.1, 0.1)
    yield r"running_var$", (0.6, 1.4)
    yield r"conv_offset\.weight$", _std(p.offset_gain / math.sqrt(fan_in))
    yield r"conv_offset\.bias$", (-0.5, 0.5)
    yield r"conv_cls\.weight$", _std(p.cls_gain * he)
    yield r"conv_cls\.bias$", (p.cls_bias - 0.5, p.cls_bias + 0.5)
    yield r"conv_kernel\.weight$", _std(p.kernel_gain * he * math.sqrt(2.0 / shape[0]))
    yield r"conv_kernel\.bias$", (*_std(0.1 / math.sqrt(shape[0])), p.kernel_bias / shape[0])
    for level, gain in enumerate(p.level_gn):
        yield rf"convs_all_levels\.{level}\.conv\d\.gn\.weight$", (0.6 * gain, 1.4 * gain)
        yield rf"convs_all_levels\.{level}\.conv\d\.gn\.bias$", (-0.2 * gain, 0.2 * gain)
    yield r"\.gn\.weight$", (0.6, 1.4)
    yield r"\.gn\.bias$", (-0.3, 0.3)
    if len(shape) == 1:
        yield r"^backbone\..*\.bias$", (-0.2, 0.2)
        last_norm = r"layer\d\.\d+\.bn2\.weight$" if basic_blocks else r"\.bn3\.weight$"
        yield last_norm, (0.1, 0.5)
        yield r"^backbone\.", (0.5, 1.3)
        yield r"", (-0.1, 0.1)
    yield r"^neck\.", _std(1.0 / math.sqrt(fan_in))
    yield r"", _std(he)
