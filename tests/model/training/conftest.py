"""The original's targets and losses; coloured squares and a network small enough for them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint import Checkpoint, save_checkpoint
from model.config import VARIANTS, SOLOv2Config
from model.solov2 import build_solov2
from model.structures import SOLOv2Output
from model.training.config import AugmentConfig, TrainConfig
from model.training.targets import Targets, assign_targets

GOLDEN = Path(__file__).parents[2] / "golden" / "unit_train.npz"
CASES = ["normal", "batch_of_two", "no_gt_in_range", "crowded", "empty_mask"]

TINY = SOLOv2Config(
    variant="tiny",
    backbone="mobilenet_v2",
    class_names=("red", "blue"),
    fpn_channels=8,
    head_channels=8,
    head_depth=1,
    mask_hidden_channels=8,
    mask_channels=8,
    norm_groups=2,
    num_grids=(8, 6, 4, 3, 2),
    scale_ranges=((1, 32), (16, 64), (32, 64), (64, 128), (128, 256)),
    preprocess=replace(VARIANTS["mobile"].preprocess, long_side=64, short_side=64),
)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``instances.json`` and six pictures of one red and one blue square each."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(3)
    images, annotations = [], []
    for number in range(1, 7):
        height, width = (64, 48) if number % 3 == 0 else (48, 64)
        picture = np.full((height, width, 3), 120, dtype=np.uint8)
        for category, colour in ((1, (0, 0, 255)), (2, (255, 0, 0))):
            side = int(rng.integers(12, 20))
            y, x = int(rng.integers(height - side)), int(rng.integers(width - side))
            picture[y : y + side, x : x + side] = colour
            annotations.append(
                square_annotation(len(annotations) + 1, number, category, x, y, side)
            )
        name = f"{number}.png"
        cv2.imwrite(str(folder / name), picture)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
    write_coco(folder / "instances.json", images, annotations)
    return folder


def square_annotation(
    number: int, image: int, category: int, x: int, y: int, side: int
) -> dict[str, Any]:
    ring = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": [ring],
        "bbox": [x, y, side, side],
        "area": side * side,
        "iscrowd": 0,
    }


def write_coco(path: Path, images: list[Any], annotations: list[Any]) -> None:
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly initialised tiny network, saved."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(path, Checkpoint(TINY, build_solov2(TINY).state_dict()))
    return path


@pytest.fixture
def config(squares: Path, tiny_weights: Path, tmp_path: Path) -> TrainConfig:
    """Six iterations of two pictures, an epoch being three."""
    return TrainConfig(
        train_data=squares / "instances.json",
        val_data=squares / "instances.json",
        output=tmp_path / "output",
        weights=tiny_weights,
        epochs=2,
        batch_size=2,
        optimiser="sgd",
        learning_rate=0.01,
        backbone_lr_factor=1,
        warmup_iterations=2,
        short_sides=(48, 64),
        long_side=80,
        augment=AugmentConfig(blank=0.1),
        device="cpu",
        workers=0,
        log_every=1,
        validate_every_epochs=1,
    )


class Case:
    """One case of the original's targets, losses and gradients."""

    def __init__(self, name: str) -> None:
        with np.load(GOLDEN) as file:
            self.meta: dict[str, Any] = json.loads(file["meta"].tobytes())
            prefix = f"{name}/"
            self.arrays = {
                key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)
            }
        self.batch = len(self.arrays["mask_feats"])

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def bits(self, key: str) -> Tensor:
        """A bool or 0-1 array that is stored eight values to the byte."""
        shape = self.arrays[f"{key}_shape"]
        bits = np.unpackbits(self.arrays[key], count=int(shape.prod())).reshape(shape)
        return torch.from_numpy(bits.astype(bool))

    def targets(self, image: int) -> Targets:
        return assign_targets(
            self.bits(f"gt{image}/masks"),
            self.tensor(f"gt{image}/bboxes"),
            self.tensor(f"gt{image}/labels"),
            num_grids=tuple(self.meta["num_grids"]),
            scale_ranges=tuple(map(tuple, self.meta["scale_ranges"])),
            num_classes=self.meta["num_classes"],
        )

    def output(self) -> SOLOv2Output:
        """The raw predictions, as leaves that collect gradients."""
        return SOLOv2Output(
            tuple(self.tensor(f"cls{i}").requires_grad_() for i in range(5)),
            tuple(self.tensor(f"kernel{i}").requires_grad_() for i in range(5)),
            self.tensor("mask_feats").requires_grad_(),
        )


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)
