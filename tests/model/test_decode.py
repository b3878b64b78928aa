import io
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from image_files import (
    encode,
    exif,
    noise,
    png_chunk,
    short,
    sixteen_bit_png,
    tiff,
    with_chunks,
)
from pictures import ASTRONAUT, CHELSEA
from PIL import Image, ImageOps

from model.decode import ImageError, decode_image, read_image

FORMATS = ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"]
RARE_JPEGS = Path(__file__).parent / "jpegs"  # 17x9 pixels of one colour

RED, GREEN, BLUE = (250, 10, 20), (10, 240, 30), (20, 30, 230)
CRIMSON, WHITE, GREY = (200, 30, 60), (255, 255, 255), (100, 100, 100)


@pytest.fixture
def quarters() -> Image.Image:
    """32x16 pixels: red and green above, blue and white below."""
    pixels = np.full((16, 32, 3), 255, np.uint8)
    pixels[:8, :16], pixels[:8, 16:], pixels[8:, :16] = RED, GREEN, BLUE
    return Image.fromarray(pixels)


def one_colour(mode: str, pixel: Any) -> Image.Image:
    """8x6 pixels; 3 is crimson in the palette."""
    picture = Image.new(mode, (8, 6), pixel)
    if mode in ("P", "PA"):
        picture.putpalette([0, 0, 0, 10, 10, 10, 20, 20, 20, *CRIMSON])
    return picture


def difference(decoded: np.ndarray, expected: Any) -> int:
    """Of the pixels that differ most."""
    return int(np.abs(decoded.astype(int) - np.asarray(expected)).max())


def decoded_or_none(data: bytes, **options: Any) -> np.ndarray | None:
    try:
        return decode_image(data, **options)
    except ImageError:
        return None


LZW = {"compression": "tiff_lzw"}


@pytest.mark.parametrize(
    ("file_format", "mode", "pixel", "options", "expected"),
    [
        ("PNG", "1", 1, {}, WHITE),
        ("PNG", "L", 100, {}, GREY),
        ("PNG", "L", 100, {"transparency": 100}, GREY),
        ("PNG", "LA", (100, 0), {}, GREY),
        ("PNG", "P", 3, {"bits": 2}, CRIMSON),
        ("PNG", "P", 3, {"bits": 4}, CRIMSON),
        ("PNG", "P", 3, {"bits": 8}, CRIMSON),
        ("PNG", "P", 3, {"transparency": 3}, CRIMSON),
        ("PNG", "P", 3, {"transparency": bytes([9, 9, 9, 0])}, CRIMSON),
        ("PNG", "RGB", CRIMSON, {}, CRIMSON),
        ("PNG", "RGB", CRIMSON, {"transparency": CRIMSON}, CRIMSON),
        ("PNG", "RGBA", (*CRIMSON, 0), {}, CRIMSON),
        ("PNG", "RGBA", (*CRIMSON, 128), {}, CRIMSON),
        ("PNG", "I;16", 257 * 100, {}, GREY),
        ("BMP", "1", 1, {}, WHITE),
        ("BMP", "L", 100, {}, GREY),
        ("BMP", "P", 3, {}, CRIMSON),
        ("BMP", "RGB", CRIMSON, {}, CRIMSON),
        ("BMP", "RGBA", (*CRIMSON, 0), {}, CRIMSON),
        ("GIF", "1", 1, {}, WHITE),
        ("GIF", "L", 100, {}, GREY),
        ("GIF", "P", 3, {}, CRIMSON),
        ("GIF", "P", 3, {"transparency": 3}, CRIMSON),
        ("WEBP", "RGB", CRIMSON, {"lossless": True}, CRIMSON),
        ("WEBP", "RGBA", (*CRIMSON, 0), {"lossless": True, "exact": True}, CRIMSON),
        *(
            ("TIFF", mode, pixel, options, expected)
            for options in ({}, LZW)
            for mode, pixel, expected in (
                ("1", 1, WHITE),
                ("L", 100, GREY),
                ("LA", (100, 0), GREY),
                ("P", 3, CRIMSON),
                ("PA", (3, 0), CRIMSON),
                ("RGB", CRIMSON, CRIMSON),
                ("RGBA", (*CRIMSON, 0), CRIMSON),
                ("RGBX", (*CRIMSON, 0), CRIMSON),
                ("CMYK", (0, 255, 0, 127), (128, 0, 128)),
                ("YCbCr", (81, 90, 240), (238, 14, 14)),
                ("LAB", (136, 208, 195), (250, 3, 11)),
                ("I;16", 257 * 100, GREY),
                ("I;16B", 257 * 100, GREY),
            )
        ),
        ("JPEG", "L", 100, {}, GREY),
        ("JPEG", "RGB", CRIMSON, {}, CRIMSON),
        ("JPEG", "RGB", CRIMSON, {"keep_rgb": True}, CRIMSON),
    ],
)
def test_every_kind_of_pixel_becomes_the_colour_it_stands_for(
    file_format: str, mode: str, pixel: Any, options: dict[str, Any], expected: tuple[int, ...]
) -> None:
    decoded = decode_image(encode(one_colour(mode, pixel), file_format, **options))

    assert decoded.dtype == np.uint8
    assert decoded.shape == (6, 8, 3)
    assert difference(decoded, expected) <= 2


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_lossless_pixels_come_back_in_place(quarters: Image.Image, file_format: str) -> None:
    decoded = decode_image(encode(quarters, file_format))

    np.testing.assert_array_equal(decoded, np.asarray(quarters))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_the_pixels_are_the_callers_to_change(file_format: str) -> None:
    decoded = decode_image(encode(noise(), file_format))

    assert decoded.flags.writeable
    assert decoded.flags.c_contiguous


class TestSixteenBits:
    VALUES = (0, 257, 12_850, 32_768, 65_535)
    BYTES = (0, 1, 50, 128, 255)

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    def test_grey_is_scaled_not_clipped(self, file_format: str) -> None:
        picture = Image.fromarray(np.array([self.VALUES], np.uint16))

        decoded = decode_image(encode(picture, file_format))

        assert decoded[0, :, 0].tolist() == [*self.BYTES]
        assert np.ptp(decoded, axis=2).max() == 0

    def test_grey_in_the_other_byte_order_is_the_same(self) -> None:
        values = np.array([self.VALUES], ">u2")
        data = encode(Image.frombytes("I;16B", (5, 1), values.tobytes()), "TIFF")

        assert decode_image(data)[0, :, 0].tolist() == [*self.BYTES]

    def test_a_tiff_in_which_zero_is_white_is_no_negative(self) -> None:
        values = np.array(self.VALUES, "<u2").tobytes()

        decoded = decode_image(tiff(5, 1, {258: short(16), 262: short(0)}, values))

        assert decoded[0, :, 0].tolist() == [255 - value for value in self.BYTES]

    def test_twelve_bits_reach_white_too(self) -> None:
        four_pixels = bytes.fromhex("000fff800001")

        decoded = decode_image(tiff(4, 1, {258: short(12)}, four_pixels))

        assert decoded[0, :, 0].tolist() == [0, 255, 128, 0]

    @pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4)], ids=["rgb", "rgba"])
    def test_colours_of_a_png_are_scaled(self, colour_type: int, channels: int) -> None:
        colour = np.array([257 * 200, 257 * 30, 257 * 60, 0], np.uint16)[:channels]

        decoded = decode_image(sixteen_bit_png(np.tile(colour, (2, 3, 1)), colour_type))

        assert decoded.shape == (2, 3, 3)
        assert decoded[1, 2].tolist() == list(CRIMSON)

    @pytest.mark.parametrize("planar", [False, True])
    def test_colours_of_a_tiff_are_scaled_in_one_plane_or_three(self, planar: bool) -> None:
        pixels = np.tile(np.array(CRIMSON, "<u2") * 257, (2, 3, 1))
        planes = np.moveaxis(pixels, 2, 0) if planar else [pixels]
        layout = {258: short(16, 16, 16), 262: short(2), 277: short(3), 284: short(1 + planar)}

        decoded = decode_image(tiff(3, 2, layout, *(plane.tobytes() for plane in planes)))

        assert np.unique(decoded.reshape(-1, 3), axis=0).tolist() == [list(CRIMSON)]


@pytest.mark.parametrize(
    ("layout", "pixel", "expected"),
    [
        ({258: short(8, 8), 277: short(2), 338: short(1)}, (50, 128), GREY),
        (
            {258: short(8, 8, 8, 8), 262: short(2), 277: short(4), 338: short(1)},
            (100, 15, 30, 128),
            CRIMSON,
        ),
    ],
    ids=["grey", "rgb"],
)
def test_colours_multiplied_by_alpha_are_divided_again(
    layout: dict[int, Any], pixel: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    decoded = decode_image(tiff(2, 2, layout, bytes(pixel) * 4))

    assert difference(decoded, expected) <= 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_that_are_no_colours_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match="32 bits"):
        decode_image(encode(Image.new(mode, (4, 4)), "TIFF"))


def test_what_pillow_does_not_know_is_not_called_damaged_alone() -> None:
    floats = {258: short(32, 32, 32), 262: short(2), 277: short(3), 339: short(3, 3, 3)}

    with pytest.raises(ImageError, match="or of a kind that is not supported"):
        decode_image(tiff(1, 1, floats, bytes(12)))


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_counts(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    lossless = {"lossless": True} if file_format == "WEBP" else {}

    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **lossless)

    assert np.unique(decode_image(data).reshape(-1, 3), axis=0).tolist() == [list(RED)]


class TestJpeg:
    @pytest.mark.parametrize("photo", [ASTRONAUT, CHELSEA], ids=["astronaut", "chelsea"])
    def test_photos_have_the_pixels_that_opencv_sees(self, photo: Path) -> None:
        by_opencv = cv2.imread(str(photo), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)

        np.testing.assert_array_equal(read_image(photo), by_opencv)

    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
    @pytest.mark.parametrize(
        "kind", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}], ids=str
    )
    def test_common_kinds_have_the_pixels_that_pillow_sees(
        self, subsampling: str, kind: dict[str, Any]
    ) -> None:
        picture = Image.open(ASTRONAUT).crop((150, 50, 281, 149))
        data = encode(picture, "JPEG", subsampling=subsampling, **kind)

        np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))

    @pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
    def test_every_subsampling_keeps_the_colour(self, subsampling: str) -> None:
        pixels = np.full((9, 17, 3), CRIMSON, np.uint8)

        decoded = decode_image(simplejpeg.encode_jpeg(pixels, 95, colorsubsampling=subsampling))

        assert decoded.shape == (9, 17, 3)
        assert difference(decoded, CRIMSON) <= 2

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("arithmetic", CRIMSON),
            ("arithmetic_progressive", CRIMSON),
            ("colour_finer_than_grey", CRIMSON),
            ("three_to_one", CRIMSON),
            ("lossless", CRIMSON),
            ("lossless_grey", (200, 200, 200)),
        ],
    )
    def test_rare_kinds_are_decoded_too(self, name: str, expected: tuple[int, ...]) -> None:
        decoded = read_image(RARE_JPEGS / f"{name}.jpg")

        assert decoded.shape == (9, 17, 3)
        assert difference(decoded, expected) <= 1

    def test_twelve_bits_are_refused(self) -> None:
        with pytest.raises(ValueError, match="not supported"):
            read_image(RARE_JPEGS / "twelve_bits.jpg")

    @pytest.mark.parametrize(
        ("inks", "colour"),
        [
            ((0, 0, 0, 0), (255, 255, 255)),
            ((255, 0, 0, 0), (0, 255, 255)),
            ((0, 255, 0, 0), (255, 0, 255)),
            ((0, 0, 255, 0), (255, 255, 0)),
            ((0, 0, 0, 255), (0, 0, 0)),
            ((10, 200, 130, 60), (187, 42, 96)),
        ],
        ids=["paper", "cyan", "magenta", "yellow", "black", "mixed"],
    )
    @pytest.mark.parametrize("transformed", [False, True], ids=["CMYK", "YCCK"])
    def test_inks_become_the_colours_they_print(
        self, transformed: bool, inks: tuple[int, ...], colour: tuple[int, ...]
    ) -> None:
        picture = Image.new("CMYK", (8, 8), inks)
        inverted = 255 - np.asarray(picture)  # as Adobe has them

        data = (
            simplejpeg.encode_jpeg(inverted, 95, colorspace="CMYK")
            if transformed
            else encode(picture, "JPEG", quality=95)
        )

        assert simplejpeg.decode_jpeg_header(data)[2] == ("YCCK" if transformed else "CMYK")
        assert difference(decode_image(data), colour) <= 3

    def test_the_adobe_marker_decides_what_the_channels_are(self) -> None:
        data = encode(Image.new("RGB", (8, 8), CRIMSON), "JPEG", quality=95)
        stored = Image.open(io.BytesIO(data))
        stored.draft("YCbCr", None)

        decoded = decode_image(data[:2] + adobe(0) + data[20:])  # in the place of JFIF's

        assert difference(decoded, stored.convert("YCbCr").getpixel((4, 4))) <= 2

    @pytest.mark.parametrize(
        "oddity",
        [
            lambda data: data + b"PK\x03\x04" * 100,
            lambda data: data + encode(noise(), "JPEG"),
            lambda data: data + encode(noise(), "PNG"),
            lambda data: data[:-2] + b"\x00\x01\x02" + data[-2:],
            lambda data: data[:2] + b"\xff\xff\xff" + data[2:],
            lambda data: data[:2] + adobe(7) + data[20:],
            lambda data: data.replace(b"JFIF\x00\x01", b"JFIF\x00\x07"),
            lambda data: data.replace(b"\x03\x11\x00\x3f\x00", b"\x03\x11\x00\x00\x00"),
            lambda data: data[:2] + b"\xff\xe2\x00\x08MPF\x00xx" + data[2:],
        ],
        ids=[
            "archive behind",
            "film behind",
            "PNG behind",
            "bytes before the end",
            "padding",
            "unknown Adobe transform",
            "JFIF 7",
            "wrong scan parameters",
            "broken index of a film",
        ],
    )
    def test_what_does_no_harm_is_forgiven(self, quarters: Image.Image, oddity: Any) -> None:
        data = encode(quarters, "JPEG")

        np.testing.assert_array_equal(decode_image(oddity(data)), decode_image(data))

    @pytest.mark.parametrize("progressive", [False, True])
    def test_half_a_picture_with_a_proper_end_is_refused(self, progressive: bool) -> None:
        data = encode(noise(), "JPEG", progressive=progressive)

        with pytest.raises(ImageError, match="truncated or damaged"):
            decode_image(data[: len(data) // 2] + b"\xff\xd9")

    @pytest.mark.parametrize("place", ["before", "behind", "after the pixels"])
    def test_two_frames_in_one_file_are_refused(self, place: str) -> None:
        data = encode(noise(), "JPEG")
        start = data.index(b"\xff\xc0")
        frame = data[start : start + 19]
        large = frame[:5] + b"\xff\xf0\xff\xf0" + frame[9:]
        at = {"before": start, "behind": start + 19, "after the pixels": len(data) - 2}[place]

        with pytest.raises(ImageError):
            decode_image(data[:at] + large + data[at:])

    def test_a_long_exif_block_is_not_unpacked(self) -> None:
        resolutions = tiff(1, 1, {282: (5, 200_000, bytes(1_600_000)), 296: short(2)}, b"")
        parts = (resolutions[i : i + 65_000] for i in range(0, len(resolutions), 65_000))
        segments = b"".join(
            b"\xff\xe1" + (len(part) + 8).to_bytes(2) + b"Exif\x00\x00" + part for part in parts
        )
        data = (RARE_JPEGS / "three_to_one.jpg").read_bytes()

        tracemalloc.start()
        decode_image(data[:2] + segments + data[20:])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert peak < 20e6


def adobe(transform: int) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
class TestOrientation:
    def turned(self, quarters: Image.Image, file_format: str, orientation: int) -> bytes:
        best = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
        options = best.get(file_format, {})
        return encode(quarters, file_format, exif=exif(orientation), **options)

    def test_is_ignored_by_default(
        self, quarters: Image.Image, file_format: str, orientation: int
    ) -> None:
        decoded = decode_image(self.turned(quarters, file_format, orientation))

        assert decoded.shape == (16, 32, 3)
        assert difference(decoded, quarters) <= 3

    def test_is_honoured_on_demand(
        self, quarters: Image.Image, file_format: str, orientation: int
    ) -> None:
        data = self.turned(quarters, file_format, orientation)
        quarters.getexif()[274] = orientation
        upright = np.asarray(ImageOps.exif_transpose(quarters))

        decoded = decode_image(data, apply_exif=True)

        assert decoded.shape == upright.shape
        assert decoded.flags.c_contiguous
        assert difference(decoded, upright) <= 3


def test_a_rare_jpeg_is_turned_like_any_other() -> None:
    data = (RARE_JPEGS / "three_to_one.jpg").read_bytes()
    block = exif(6).tobytes()
    segment = b"\xff\xe1" + (len(block) + 2).to_bytes(2) + block

    assert decode_image(data[:2] + segment + data[2:], apply_exif=True).shape == (17, 9, 3)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("apply_exif", [False, True])
@pytest.mark.parametrize(
    "block", [b"garbage!", b"II*\x00\xff\xff\xff\xff", b"II*\x00\x08\x00\x00\x00\xff\xff"]
)
def test_damaged_exif_does_not_spoil_the_picture(
    quarters: Image.Image, file_format: str, apply_exif: bool, block: bytes
) -> None:
    data = encode(quarters, file_format, exif=b"Exif\x00\x00" + block)

    assert decode_image(data, apply_exif=apply_exif).shape == (16, 32, 3)


TRUNCATED = [
    *((file_format, {}) for file_format in FORMATS),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"restart_marker_rows": 1}),
    ("WEBP", {"lossless": True}),
    *(
        ("TIFF", {"compression": compression})
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ),
]


@pytest.mark.parametrize(("file_format", "options"), TRUNCATED, ids=str)
def test_a_truncated_file_is_refused_or_whole_and_nothing_is_printed(
    file_format: str, options: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    data = encode(noise(), file_format, **options)
    whole = decode_image(data)

    lengths = {*range(0, len(data), len(data) // 50), *range(len(data) - 20, len(data))}
    decoded = {n: pixels for n in lengths if (pixels := decoded_or_none(data[:n])) is not None}

    assert all(np.array_equal(pixels, whole) for pixels in decoded.values())
    assert not any(length < len(data) - 20 for length in decoded)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_inked_jpeg_is_refused_too() -> None:
    data = encode(noise().convert("CMYK"), "JPEG")

    with pytest.raises(ImageError, match="truncated or damaged"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG"])
@pytest.mark.parametrize("inside", ["PNG", "JPEG", "GIF"])
def test_a_file_with_the_beginning_of_another_kind_is_refused(
    file_format: str, inside: str
) -> None:
    data = encode(noise(), file_format)[:12] + encode(noise(), inside)[12:]

    if file_format == inside:
        assert decode_image(data).shape == (48, 64, 3)
    else:
        with pytest.raises(ImageError):
            decode_image(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\x89PNG\r\n\x1a\n",
        b"BM",
        b"GIF89a",
        b"II*\x00",
        b"MM\x00*\x00\x00\x00\x08\xff\xff",
        b"RIFF\x00\x00\x00\x00WEBP",
        b"%!PS-Adobe-3.0",
    ],
)
@pytest.mark.parametrize("apply_exif", [False, True])
def test_what_is_no_image_is_refused(data: bytes, apply_exif: bool) -> None:
    with pytest.raises(ImageError):
        decode_image(data, apply_exif=apply_exif)


@pytest.mark.parametrize("file_format", ["PPM", "ICO", "TGA", "JPEG2000"])
def test_formats_outside_the_list_are_not_even_tried(file_format: str) -> None:
    with pytest.raises(ImageError, match="not a JPEG, PNG, BMP, TIFF, WebP or GIF image"):
        decode_image(encode(noise(), file_format))


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_give_a_picture_or_a_refusal_and_nothing_else(
    quarters: Image.Image, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(seed)
    damaged = np.frombuffer(encode(quarters, FORMATS[seed % 6]), np.uint8).copy()
    places = rng.integers(8, len(damaged), 12)
    damaged[places] = rng.integers(0, 256, 12)

    decoded = decoded_or_none(damaged.tobytes(), max_pixels=10_000)

    assert decoded is None or decoded.shape[2:] == (3,)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_picture_over_the_limit_is_refused_and_one_at_it_is_not(file_format: str) -> None:
    data = encode(noise(), file_format)

    assert decode_image(data, max_pixels=64 * 48).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="64x48 pixels, more than the limit of 3071 in all"):
        decode_image(data, max_pixels=64 * 48 - 1)


def test_the_limit_holds_for_what_is_decoded_not_for_what_is_declared_first() -> None:
    data = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    frame = data.index(b"\x2c", 13)
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"

    with pytest.raises(ImageError, match="65535x65535 pixels"):
        decode_image(bytes(data), max_pixels=50_000_000)


def test_profiles_and_texts_are_not_unpacked() -> None:
    bomb = b"name\x00\x00" + zlib.compress(bytes(2_000_000))
    plain = encode(noise(), "PNG")

    data = with_chunks(plain, png_chunk(b"iCCP", bomb), png_chunk(b"zTXt", bomb))

    np.testing.assert_array_equal(decode_image(data), decode_image(plain))


def test_a_parser_that_goes_byte_by_byte_is_stopped() -> None:
    data = encode(one_colour("P", 3), "GIF")
    image = data.index(b"\x2c", 13)

    assert decode_image(data[:image] + b"\x01" * 5000 + data[image:]).shape == (6, 8, 3)
    with pytest.raises(ImageError):
        decode_image(data[:image] + b"\x01" * 500_000 + data[image:])


def test_strips_listed_again_and_again_are_decoded_once() -> None:
    rows = bytes([100]) * 8 * 7, bytes([200]) * 8
    again = tiff(8, 8, {278: short(7)}, *rows, bytes(56), bytes(8), bytes(56), bytes(8))

    decoded = decode_image(again)

    assert decoded[:, 0, 0].tolist() == [100] * 7 + [200]


def test_a_shortage_of_memory_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode_jpeg(data: bytes) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)

    with pytest.raises(MemoryError):
        decode_image(encode(noise(), "JPEG"))


def test_threads_see_the_same_pixels() -> None:
    files = [
        *(encode(noise(), file_format) for file_format in FORMATS),
        encode(noise(), "TIFF", compression="tiff_lzw"),
        encode(noise().convert("CMYK"), "JPEG"),
        (RARE_JPEGS / "three_to_one.jpg").read_bytes(),
    ]
    alone = [decode_image(data) for data in files]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(decode_image, files * 20))

    assert all(np.array_equal(a, b) for a, b in zip(together, alone * 20, strict=True))


def test_nothing_is_printed_or_warned_about(tmp_path: Path) -> None:
    jpeg, lzw = encode(noise(), "JPEG"), encode(noise(), "TIFF", compression="tiff_lzw")
    files = {
        "extra bytes in a JPEG": jpeg[:-2] + b"\x00\x01" + jpeg[-2:],
        "half a JPEG": jpeg[: len(jpeg) // 2] + b"\xff\xd9",
        "a TIFF of damaged data": lzw[:1000] + bytes(500) + lzw[1500:],
        "a TIFF with a value too many": tiff(8, 8, {259: short(1, 1)}, bytes(64)),
        "a TIFF of too many channels": tiff(8, 8, {277: short(99)}, bytes(64)),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    program = """
import sys
from pathlib import Path
from model.decode import read_image

for path in Path(sys.argv[1]).iterdir():
    try:
        read_image(path, apply_exif=True)
    except ValueError:
        pass
"""

    result = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, check=True
    )

    assert (result.stdout, result.stderr) == (b"", b"")


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(encode(noise(), "PNG")[:-100])

    with pytest.raises(ValueError, match=r"cannot decode the image .*damaged\.png \(the image is"):
        read_image(damaged)
    with pytest.raises(ValueError, match=r"cannot read the image .*none\.png \(No such file"):
        read_image(tmp_path / "none.png")
