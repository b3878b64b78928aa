from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from service.errors import BadImageError
from service.web.jpeg import count_scans, frame_size

Encode = Callable[..., bytes]


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))


def with_scans(jpeg: bytes, extra: int) -> bytes:
    """The same progressive JPEG with its last scan repeated."""
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * extra + jpeg[-2:]


def test_a_baseline_jpeg_has_one_scan(encode: Encode, picture: Image.Image) -> None:
    assert count_scans(encode(picture, "JPEG")) == 1


def test_restart_markers_are_no_scans(encode: Encode, picture: Image.Image) -> None:
    data = encode(picture, "JPEG", progressive=True, restart_marker_blocks=1)

    assert data.count(b"\xff\xd0") > 10
    assert count_scans(data) == 10


@pytest.mark.parametrize("extra", [0, 1, 100])
def test_every_scan_of_a_progressive_jpeg_counts(
    encode: Encode, picture: Image.Image, extra: int
) -> None:
    data = encode(picture, "JPEG", progressive=True)

    assert count_scans(with_scans(data, extra)) == 10 + extra


def test_scans_of_a_thumbnail_in_a_segment_do_not_count(
    encode: Encode, picture: Image.Image
) -> None:
    thumbnail = encode(picture.resize((8, 8)), "JPEG", progressive=True)

    data = encode(picture, "JPEG", exif=b"Exif\x00\x00" + thumbnail)

    assert data.count(b"\xff\xda") > 1
    assert count_scans(data) == 1


def test_what_a_phone_appends_does_not_count(encode: Encode, picture: Image.Image) -> None:
    data = encode(picture, "JPEG") + b"\xff\xda\x00\x00" * 500

    assert count_scans(data) == 1


@pytest.mark.parametrize("length", range(0, 700, 7))
def test_a_truncated_jpeg_is_counted_as_far_as_it_goes(
    encode: Encode, picture: Image.Image, length: int
) -> None:
    assert count_scans(encode(picture, "JPEG")[:length]) <= 1


def test_the_size_is_that_of_the_frame_not_of_the_thumbnail(
    encode: Encode, picture: Image.Image
) -> None:
    thumbnail = encode(picture.resize((8, 8)), "JPEG")

    data = encode(picture.resize((30, 20)), "JPEG", exif=b"Exif\x00\x00" + thumbnail)

    assert frame_size(data) == (30, 20)


@pytest.mark.parametrize("measure", [frame_size, count_scans])
@pytest.mark.parametrize("segment", [b"\xff\xfe\x00\x02", b"\xff\x01"], ids=["empty", "bare"])
def test_a_jpeg_of_endless_segments_is_refused(
    encode: Encode, picture: Image.Image, measure: Callable[[bytes], object], segment: bytes
) -> None:
    data = encode(picture, "JPEG")

    with pytest.raises(BadImageError, match="the JPEG has more than 10000 segments"):
        measure(data[:2] + segment * 10_000 + data[2:])


def test_segments_between_scans_count_too(encode: Encode, picture: Image.Image) -> None:
    data = encode(picture, "JPEG")

    with pytest.raises(BadImageError, match="segments"):
        count_scans(data[:-2] + b"\xff\xfe\x00\x02" * 10_000 + data[-2:])
