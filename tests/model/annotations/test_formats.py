import itertools
from pathlib import Path

import pytest
from annotated import assert_as_wanted

from model.annotations.formats import Format, read_annotations, write_annotations

FORMATS: tuple[Format, ...] = ("coco", "azure", "voc")
FILES = {"coco": "instances.json", "azure": ".", "voc": "."}


@pytest.mark.parametrize(("source", "target"), [*itertools.product(FORMATS, FORMATS)])
def test_every_format_becomes_every_other(
    request: pytest.FixtureRequest, tmp_path: Path, source: Format, target: Format
) -> None:
    annotations = read_annotations(request.getfixturevalue(source))

    lost = write_annotations(annotations, tmp_path / "out", target)

    assert lost == []
    again = read_annotations(tmp_path / "out" / FILES[target])
    assert_as_wanted(again)
    assert all(image.path.is_relative_to(tmp_path / "out") for image in again.images)


def test_pictures_of_one_name_are_not_mixed_up(coco: Path, tmp_path: Path) -> None:
    annotations = read_annotations(coco)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "b.png").read_bytes())
    coco.write_text(coco.read_text().replace("b.png", "a.jpg"))
    same_stem = read_annotations(coco)

    write_annotations(same_stem, tmp_path / "coco", "coco")

    with pytest.raises(ValueError, match=r"a\.png and .*a\.jpg would have the same name"):
        write_annotations(same_stem, tmp_path / "voc", "voc")
    assert not (tmp_path / "voc").exists()
    assert_as_wanted(annotations)


def test_a_folder_in_use_is_left_alone(coco: Path) -> None:
    with pytest.raises(ValueError, match="is not empty"):
        write_annotations(read_annotations(coco), coco.parent, "voc")


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.json", "No such file"), ("none", "there is no"), ("empty", "holds neither")],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises((ValueError, OSError), match=message):
        read_annotations(tmp_path / name)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")

    with pytest.raises(ValueError, match=r"neither COCO's \.json nor Azure's \.jsonl"):
        read_annotations(tmp_path / "a.csv")
