import json
from pathlib import Path

import numpy as np
from PIL import Image

from model.structures import Instances
from service.panoptic import PanopticFolder


def instances(*masks: np.ndarray, labels: list[int]) -> Instances:
    scores = np.linspace(0.9, 0.6, len(masks), dtype=np.float32)
    return Instances.from_full_masks(scores, np.array(labels), np.array(masks))


def rectangle(y1: int, y2: int, x1: int, x2: int) -> np.ndarray:
    mask = np.zeros((20, 30), dtype=np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def test_a_photo_becomes_a_picture_and_its_segments_as_coco_has_them(tmp_path: Path) -> None:
    folder = PanopticFolder(tmp_path / "new" / "maps", ["person", "cat"])
    left, right = rectangle(0, 10, 0, 20), rectangle(5, 20, 15, 30)

    folder.add(Path("x/a.jpg"), instances(left, right, labels=[0, 1]), ["cat", "dog"], min_score=0)
    folder.write_index()

    index = json.loads((tmp_path / "new" / "maps" / "panoptic.json").read_text())
    assert index["images"] == [{"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}]
    assert [(c["id"], c["name"], c["isthing"]) for c in index["categories"]] == [
        (1, "person", 1),
        (2, "cat", 1),
        (3, "dog", 1),
    ]
    [annotation] = index["annotations"]
    first, second = annotation["segments_info"]
    assert (annotation["image_id"], annotation["file_name"]) == (1, "a.png")
    assert (first["category_id"], first["area"], first["bbox"]) == (2, 200, [0, 0, 20, 10])
    assert (second["category_id"], second["area"], second["bbox"]) == (3, 200, [15, 5, 15, 15])

    rgb = np.asarray(Image.open(tmp_path / "new" / "maps" / "a.png")).astype(int)
    ids = rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]
    assert np.array_equal(ids == first["id"], left)
    assert np.array_equal(ids == second["id"], right & ~left)


def test_what_scores_too_low_is_not_in_the_map(tmp_path: Path) -> None:
    folder = PanopticFolder(tmp_path)

    folder.add(Path("a.jpg"), instances(rectangle(0, 5, 0, 5), labels=[0]), ["cat"], min_score=0.95)
    folder.write_index()

    index = json.loads((tmp_path / "panoptic.json").read_text())
    assert index["annotations"][0]["segments_info"] == []
    assert not np.asarray(Image.open(tmp_path / "a.png")).any()
