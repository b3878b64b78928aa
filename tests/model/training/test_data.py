import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from model.training.config import TrainConfig
from model.training.data import load_data


def test_training_and_validation_data_are_read(config: TrainConfig) -> None:
    data = load_data(config, check=True)

    assert data.class_names == ("red", "blue")
    assert len(data.train.images) == 6
    assert data.validation is not None
    assert len(data.validation.images) == 6


def test_a_fraction_is_held_out_of_the_training_data(config: TrainConfig) -> None:
    data = load_data(replace(config, val_data=None, val_fraction=0.3), check=True)

    assert data.validation is not None
    assert (len(data.train.images), len(data.validation.images)) == (4, 2)


def test_classes_can_be_chosen(config: TrainConfig) -> None:
    assert load_data(replace(config, class_names=("blue",)), check=True).class_names == ("blue",)
    with pytest.raises(ValueError, match=r"instances\.json has no class green"):
        load_data(replace(config, class_names=("blue", "green")), check=True)


@pytest.mark.parametrize("part", ["train_data", "val_data"])
def test_broken_data_is_refused_by_name(config: TrainConfig, tmp_path: Path, part: str) -> None:
    path = broken_copy(config.train_data, tmp_path, {"image_id": 99})

    with pytest.raises(ValueError, match=r"broken\.json cannot be used: annotation 1: is for"):
        load_data(replace(config, **{part: path}), check=True)


def test_pictures_are_looked_at_where_a_check_is_asked_for(
    config: TrainConfig, tmp_path: Path
) -> None:
    path = broken_copy(config.train_data, tmp_path, {})
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")

    with pytest.raises(ValueError, match=r"1\.png: is 9x9 pixels.*there is no picture"):
        load_data(replace(config, train_data=path), check=True)
    assert len(load_data(replace(config, train_data=path), check=False).train.images) == 6


def test_validation_data_of_other_classes_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    text = config.train_data.read_text().replace('"red"', '"pink"').replace('"blue"', '"grey"')
    (tmp_path / "other.json").write_text(text)
    other = replace(config, val_data=tmp_path / "other.json", val_images=config.train_data.parent)

    with pytest.raises(ValueError, match="none of the classes red, blue; it has pink, grey"):
        load_data(other, check=True)


def broken_copy(source: Path, folder: Path, change: dict[str, int]) -> Path:
    content = json.loads(source.read_text())
    content["annotations"][0] |= change
    path = folder / "broken.json"
    path.write_text(json.dumps(content))
    return path
