import struct

import numpy as np
import pytest
from image_files import encode, exif, long, noise, png_chunk, short, tiff, with_chunks
from PIL import Image

from model.image_file import orientation, picture_only


def entries(tiff_file: bytes) -> dict[int, bytes]:
    """Tag and entry of the first directory of a little-endian TIFF."""
    (start,) = struct.unpack_from("<I", tiff_file, 4)
    (length,) = struct.unpack_from("<H", tiff_file, start)
    places = range(start + 2, start + 2 + 12 * length, 12)
    return {struct.unpack_from("<H", tiff_file, p)[0]: tiff_file[p : p + 12] for p in places}


def test_of_a_png_only_the_picture_stays() -> None:
    plain = encode(noise(), "PNG")
    more = [png_chunk(name, b"text\x00more") for name in (b"tEXt", b"iCCP", b"acTL", b"wxYZ")]

    assert picture_only(with_chunks(plain, *more)) == plain


def test_the_palette_belongs_to_the_picture() -> None:
    plain = encode(noise().quantize(16), "PNG")

    assert picture_only(plain) == plain


@pytest.mark.parametrize("length", [8, 20, 60, 1000])
def test_a_png_stays_truncated_where_it_was(length: int) -> None:
    truncated = encode(noise(), "PNG")[:length]

    assert picture_only(truncated) == truncated


def test_a_png_of_too_many_chunks_is_refused() -> None:
    with pytest.raises(ValueError, match="too many chunks"):
        picture_only(with_chunks(encode(noise(), "PNG"), png_chunk(b"teXt", b"") * 100_000))


def test_of_a_tiff_the_tags_of_the_picture_stay_as_they_are() -> None:
    kept = {258: short(8, 8, 8), 262: short(2), 277: short(3)}
    rest = {270: (2, 4, b"text"), 274: short(6), 282: (5, 1, bytes(8)), 700: (1, 4, b"<xmp")}
    data = tiff(4, 2, kept | rest, bytes(24))

    left = picture_only(data)

    assert len(left) == len(data)
    assert entries(left) == {tag: e for tag, e in entries(data).items() if tag not in rest}


def test_pages_after_the_first_are_forgotten() -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])

    left = picture_only(data)

    (start,) = struct.unpack_from("<I", left, 4)
    (length,) = struct.unpack_from("<H", left, start)
    assert struct.unpack_from("<I", left, start + 2 + 12 * length) == (0,)


@pytest.mark.parametrize("tag", [258, 320, 338])
def test_a_tag_of_too_many_values_is_refused(tag: int) -> None:
    with pytest.raises(ValueError, match="too many values"):
        picture_only(tiff(4, 2, {tag: (3, 200_000, bytes(400_000))}, bytes(8)))


def test_a_picture_may_have_many_strips() -> None:
    strips = long(*range(200_000))

    assert 273 in entries(picture_only(tiff(4, 2, {273: strips, 279: strips}, bytes(8))))


@pytest.mark.parametrize(("side", "fits"), [(4096, True), (4097, False), (2**31, False)])
def test_tiles_are_hardly_larger_than_the_picture(side: int, fits: bool) -> None:
    data = tiff(4, 2, {322: long(side), 323: long(side)}, bytes(8))

    if fits:
        assert 322 in entries(picture_only(data))
    else:
        with pytest.raises(ValueError, match="much larger than the picture"):
            picture_only(data)


def test_sides_of_an_unusual_type_are_refused() -> None:
    with pytest.raises(ValueError, match="no number of pixels"):
        picture_only(tiff(4, 2, {322: (9, 1, struct.pack("<i", 40_000))}, bytes(8)))


@pytest.mark.parametrize("file_format", ["JPEG", "GIF", "BMP", "WEBP"])
def test_other_files_stay_as_they_are(file_format: str) -> None:
    data = encode(noise(), file_format)

    assert picture_only(data) == data


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_orientation_is_found_in_every_format_that_has_one(
    file_format: str, value: int
) -> None:
    assert orientation(encode(noise(), file_format, exif=exif(value))) == value


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_what_says_nothing_is_upright(file_format: str) -> None:
    assert orientation(encode(noise(), file_format)) == 1


def test_exif_of_big_endian_cameras_is_read() -> None:
    block = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x08\x00\x00"

    assert orientation(encode(noise(), "JPEG", exif=b"Exif\x00\x00" + block)) == 8


def test_exif_behind_other_segments_is_found() -> None:
    data = encode(noise(), "JPEG", exif=exif(3), icc_profile=bytes(100_000), comment="text")

    assert orientation(data) == 3


def test_what_stands_behind_the_pixels_of_a_jpeg_is_not_asked() -> None:
    turned = encode(noise(), "JPEG", exif=exif(3))
    scan = b"\xff\xda\x00\x02"

    assert orientation(turned) == 3
    assert orientation(turned[:2] + scan + turned[2:]) == 1
    assert orientation(encode(noise(), "JPEG") + turned) == 1


@pytest.mark.parametrize("prefix", [b"", b"Exif\x00\x00"])
def test_exif_of_a_webp_may_have_the_prefix_of_a_jpegs_and_follow_padding(prefix: bytes) -> None:
    block = prefix + exif(8).tobytes().removeprefix(b"Exif\x00\x00")
    pixels = b"VP8 " + struct.pack("<I", 3) + b"abc" + b"\x00"

    data = b"RIFF....WEBP" + pixels + b"EXIF" + struct.pack("<I", len(block)) + block

    assert orientation(data) == 8


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_truncated_file_is_upright_at_worst(file_format: str) -> None:
    data = encode(noise(8, 8), file_format, exif=exif(6))

    assert {orientation(data[:length]) for length in range(len(data))} <= {1, 6}


def test_random_directories_are_read_without_surprise() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        block = b"II*\x00\x08\x00\x00\x00" + rng.integers(0, 256, 60, np.uint8).tobytes()

        assert isinstance(orientation(block), int)
