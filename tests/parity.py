"""How far a result is from what MMDetection computed for the same picture and weights."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from goldens import Golden, final_masks, seeded_network
from torch import Tensor

from model.config import VARIANTS, InferenceConfig, PreprocessConfig
from model.predictor import Predictor
from model.preprocess import preprocess
from model.structures import Instances, RGBImage, SOLOv2Output

_IOU_FROM = 1000  # pixels


@dataclass(frozen=True)
class Deviation:
    """The largest differences from a golden.

    Rounding differs between processors and numbers of threads. In the original it moves logits by
    up to 2e-5 and turns a few of all pixels over, which in a mask of 5000 pixels is more than
    1 - 0.9999 of it. One pixel of a stride-4 mask moves its IoU with others, and so the decay of
    its score.
    """

    logits: float
    kernels: float
    scores: float
    scores_but_one_cell: float  # beyond what one turned pixel of the stride-4 mask can explain
    pixels: float  # differing, as a share of all masks' frames
    iou: float  # lowest of the masks with 1000 pixels or more, one pixel of each not counted
    boxes: int  # pixels

    @property
    def none(self) -> bool:
        """The same, bit for bit."""
        return not any((self.logits, self.kernels, self.scores, self.pixels, self.boxes))


def deviation(golden: Golden, predictor: Predictor, image: RGBImage) -> Deviation:
    """Score the (H, W, 3) picture of a golden and compare."""
    output = predictor.forward(preprocess([image], predictor.config.preprocess))
    [instances] = predictor.predict([image])
    expected = final_masks(golden)
    matched = _match(instances, golden["labels"], expected)
    masks = instances.full_masks()[matched]
    off = np.abs(instances.scores[matched] - golden["scores"])
    return Deviation(
        logits=_largest(golden, "cls", output.categories),
        kernels=_largest(golden, "kernel", output.kernels),
        scores=float(off.max()),
        scores_but_one_cell=float((off - _one_cell(golden["scores"], expected, output)).max()),
        pixels=float((masks != expected).mean()),
        iou=_lowest_iou(masks, expected),
        boxes=int(np.abs(instances.boxes[matched] - golden["mask_bboxes"]).max()),
    )


def seeded_predictor(golden: Golden, device: str = "cpu", *, exact: bool = False) -> Predictor:
    """The predictor of a golden's variant, at the golden's scale."""
    config = VARIANTS[golden.meta["variant"]]
    if "test_scale" in golden.meta:
        long_side, short_side = golden.meta["test_scale"]
        scale = PreprocessConfig(long_side=long_side, short_side=short_side)
        config = replace(config, preprocess=scale)
    return Predictor(
        seeded_network(golden),
        config,
        inference=InferenceConfig(),
        device=torch.device(device),
        dtype=torch.float32,
        exact=exact,
    )


def _match(instances: Instances, labels: np.ndarray, masks: np.ndarray) -> list[int]:
    """For each expected instance the one found that it is: same label, most alike mask.

    Ranks say nothing where scores are closer than rounding. Each is matched once, and all are.
    """
    assert len(instances) == len(labels)
    found, wanted = (
        m.reshape(len(m), -1).astype(np.float32) for m in (instances.full_masks(), masks)
    )
    shared = wanted @ found.T
    iou = shared / (wanted.sum(1)[:, None] + found.sum(1) - shared).clip(1)
    iou[labels[:, None] != instances.labels] = -1
    free = set(range(len(instances)))
    matched = []
    for row in iou:
        best = max(free, key=lambda n: (row[n], -n))
        assert row[best] >= 0, "an instance of this label is missing"
        free.remove(best)
        matched.append(best)
    return matched


def _one_cell(scores: np.ndarray, masks: np.ndarray, output: SOLOv2Output) -> np.ndarray:
    """How far one more or less of a mask's A cells moves a score.

    Its IoU with another moves by 1/A at most, and by that times 4 the gaussian decay: the slope of
    exp(-2 * iou**2) / exp(-2 * covered**2) is at most 4 of its value.
    """
    cells = masks.mean((1, 2)) * math.prod(output.mask_feature.shape[-2:])
    return scores * 4 / cells.clip(1)


def _largest(golden: Golden, name: str, levels: tuple[Tensor, ...]) -> float:
    return max(
        float((_sample(golden, name, level.cpu()) - golden.tensor(f"{name}{n}")).abs().max())
        for n, level in enumerate(levels)
    )


def _sample(golden: Golden, name: str, level: Tensor) -> Tensor:
    """What a golden keeps of a level: all of it, or every so manieth channel, row and column."""
    if "sample" in golden.meta:
        steps = golden.meta["sample"][name].strip("[]").split(",")  # such as [:, ::8, ::4, ::4]
        return level[tuple(slice(None, None, int(s.strip(" :") or 1)) for s in steps)]
    step = golden.meta.get("kernel_channel_step", 1) if name == "kernel" else 1
    return level[:, ::step]


def _lowest_iou(masks: np.ndarray, expected: np.ndarray) -> float:
    large = expected.sum((1, 2)) >= _IOU_FROM
    either = (masks | expected)[large].sum((1, 2))
    differing = (masks ^ expected)[large].sum((1, 2))
    return float((1 - (differing - 1).clip(0) / either).min(initial=1))
