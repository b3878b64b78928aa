"""A model, a photo, and what is to be seen in it."""

import json
from pathlib import Path

import cv2
import pytest
from pictures import astronaut
from tiny import save_tiny

PICTURE = astronaut()[::4, ::4]  # 128x128


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "astronaut.png"
    cv2.imwrite(str(path), PICTURE[:, :, ::-1])
    return path


@pytest.fixture
def annotations(tmp_path: Path, photo: Path) -> Path:
    """One person, a rectangle, in the photo."""
    path = tmp_path / "instances.json"
    corners = [40.0, 10.0, 90.0, 10.0, 90.0, 120.0, 40.0, 120.0]
    person = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [corners],
        "bbox": [40, 10, 50, 110],
        "area": 5500,
        "iscrowd": 0,
    }
    data = {
        "images": [{"id": 1, "file_name": photo.name, "height": 128, "width": 128}],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}],
        "annotations": [person],
    }
    path.write_text(json.dumps(data))
    return path
