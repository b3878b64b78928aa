from pathlib import Path

import pytest
from PIL import Image

from model.annotations.pictures import picture_size


@pytest.mark.parametrize(
    ("orientation", "apply_exif", "size"),
    [(1, True, (8, 6)), (3, True, (8, 6)), (6, True, (6, 8)), (6, False, (8, 6))],
)
def test_a_picture_lies_as_its_orientation_says_where_that_counts(
    tmp_path: Path, orientation: int, apply_exif: bool, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)

    assert picture_size(tmp_path / "a.jpg", apply_exif=apply_exif) == size


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")

    with pytest.raises(ValueError, match=r"a\.jpg is no picture"):
        picture_size(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"there is no picture .*b\.jpg"):
        picture_size(tmp_path / "b.jpg")
