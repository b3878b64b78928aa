"""The small data set of ``annotated`` in each format."""

from pathlib import Path

import pytest
from annotated import (
    CORNER,
    MASK,
    azure_lines,
    coco_content,
    draw_pictures,
    save_coco,
    save_lines,
    save_mask,
    voc_xml,
)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    draw_pictures(tmp_path)
    return save_coco(tmp_path / "instances.json", coco_content())


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    """An MLTable folder."""
    draw_pictures(tmp_path / "images")
    save_lines(tmp_path / "train.jsonl", azure_lines())
    (tmp_path / "MLTable").write_text(
        "paths:\n  - file: ./train.jsonl\n"
        "transformations:\n  - read_json_lines:\n      encoding: utf8\n"
    )
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    draw_pictures(tmp_path / "images")
    for part in ("annotations", "segmentation-masks"):
        (tmp_path / part).mkdir()
    (tmp_path / "annotations/a.xml").write_text(voc_xml("a.png", ("dog", 0), ("cat", 1)))
    (tmp_path / "annotations/b.xml").write_text(voc_xml("b.png", ("cat", 0)))
    save_mask(tmp_path / "segmentation-masks/a.png", MASK * 1 + CORNER * 2)
    save_mask(tmp_path / "segmentation-masks/b.png", CORNER * 7)
    return tmp_path
