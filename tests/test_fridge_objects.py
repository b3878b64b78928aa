"""README's walk-through, on drawings in the place of Microsoft's photos."""

import base64
import json
from pathlib import Path

import pytest
from commands import run
from fridge import CLASSES, draw_fridge
from serving import serving, until

# Less than the walk-through trains, at half its sizes: minutes on a CPU core.
_SHORT = ("--epochs", 15, "--batch-size", 4, "--validate-every", 15)
_SMALL = ("--short-side", 160, "--short-side", 192, "--long-side", 256)


@pytest.mark.long
def test_new_objects_are_learnt_in_minutes_and_served(tmp_path: Path) -> None:
    draw_fridge(tmp_path / "fridge", 40, seed=0)
    draw_fridge(tmp_path / "held-out", 16, seed=1)
    data = ("--data", tmp_path / "fridge", "--val-data", tmp_path / "held-out")

    code, output = run("dataset", "check", tmp_path / "fridge")
    assert code == 0, output
    assert "3 classes: can, carton, milk_bottle; 0 errors, 0 notes" in output

    code, output = run(
        *("train", *data, "--out", tmp_path / "run", *_SHORT, *_SMALL),
        *("--workers", 0, "--device", "cpu"),
    )
    assert code == 0, output
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    measured = [line["mask_ap50"] for line in map(json.loads, log) if "mask_ap50" in line]
    assert measured[-1] >= 0.8

    pictures = sorted((tmp_path / "held-out" / "images").iterdir())
    labels = served_labels(tmp_path, tmp_path / "run" / "best.safetensors", pictures)
    wanted = [truth(tmp_path / "held-out", picture) for picture in pictures]
    agree = sum(found == want for found, want in zip(labels, wanted, strict=True))
    assert agree >= 0.75 * len(pictures)


def served_labels(folder: Path, weights: Path, pictures: list[Path]) -> list[list[str]]:
    """What /score is sure of in each picture."""
    with serving(folder, weights) as server:
        until(lambda: server.ask("/readyz") == 200)
        encoded = [base64.b64encode(picture.read_bytes()).decode() for picture in pictures]
        answers = server.score(*encoded).json()
    return [
        sorted(box["label"] for box in answer["boxes"] if box["score"] >= 0.3) for answer in answers
    ]


def truth(folder: Path, picture: Path) -> list[str]:
    xml = (folder / "annotations" / f"{picture.stem}.xml").read_text()
    return sorted(label for label in CLASSES for _ in range(xml.count(f"<name>{label}<")))
