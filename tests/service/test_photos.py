from pathlib import Path

import pytest

from model.decode import decode_image
from service.photos import draw_photos, read_photos


def test_drawn_photos_are_different_jpegs_of_one_size_and_repeat_with_the_seed() -> None:
    photos = draw_photos(3, seed=1)

    assert len(set(photos)) == 3
    assert {decode_image(photo).shape for photo in photos} == {(480, 640, 3)}
    assert draw_photos(3, seed=1) == photos
    assert draw_photos(3, seed=2) != photos


def test_the_pictures_of_a_folder_come_by_name_and_nothing_else_does(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())

    assert read_photos(tmp_path) == [b"a.PNG", b"b.jpg"]


def test_a_folder_without_pictures_and_no_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        read_photos(tmp_path)
    with pytest.raises(ValueError, match="none"):
        read_photos(tmp_path / "none")
