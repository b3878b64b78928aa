import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.errors import BadImageError
from service.worker.decode import decode_image

Encode = Callable[..., bytes]

RED, GREEN, BLUE = (250, 10, 20), (10, 240, 30), (20, 30, 230)


@pytest.fixture
def quarters() -> Image.Image:
    """32x16 pixels: red and green above, blue and white below."""
    pixels = np.full((16, 32, 3), 255, np.uint8)
    pixels[:8, :16], pixels[:8, 16:], pixels[8:, :16] = RED, GREEN, BLUE
    return Image.fromarray(pixels)


def sixteen_bit_png(pixels: np.ndarray, colour_type: int) -> bytes:
    """A PNG of (H, W, channels) uint16, which Pillow itself writes only in grey."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [
        (b"IHDR", struct.pack("!IIBBBBB", width, height, 16, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_lossless_colours_come_back_as_rgb(
    encode: Encode, quarters: Image.Image, file_format: str
) -> None:
    decoded = decode_image(encode(quarters, file_format))

    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.asarray(quarters))


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 95}),
        ("GIF", {}),
    ],
    ids=str,
)
def test_lossy_colours_come_back_close_and_with_red_as_red(
    encode: Encode, quarters: Image.Image, file_format: str, options: dict[str, object]
) -> None:
    decoded = decode_image(encode(quarters, file_format, **options)).astype(int)

    assert decoded.shape == (16, 32, 3)
    for (row, column), colour in {(3, 5): RED, (3, 25): GREEN, (12, 5): BLUE}.items():
        assert np.abs(decoded[row, column] - colour).max() <= 12


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_grey_becomes_three_equal_channels(encode: Encode, file_format: str) -> None:
    decoded = decode_image(encode(Image.new("L", (8, 8), 100), file_format)).astype(int)

    assert decoded.shape == (8, 8, 3)
    assert np.abs(decoded - 100).max() <= 1
    assert np.ptp(decoded, axis=2).max() == 0


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_one_bit_becomes_black_and_white(encode: Encode, file_format: str) -> None:
    picture = Image.fromarray(np.array([[True, False], [False, True]]))

    decoded = decode_image(encode(picture, file_format))

    assert decoded[:, :, 0].tolist() == [[255, 0], [0, 255]]


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "GIF"])
def test_a_palette_is_looked_up(encode: Encode, quarters: Image.Image, file_format: str) -> None:
    decoded = decode_image(encode(quarters.quantize(4), file_format))

    np.testing.assert_array_equal(decoded, np.asarray(quarters))


@pytest.mark.parametrize("transparency", [0, bytes([0, 0, 0, 0])], ids=["one", "all"])
def test_a_transparent_palette_entry_keeps_its_colour(
    encode: Encode, quarters: Image.Image, transparency: int | bytes
) -> None:
    data = encode(quarters.quantize(4), "PNG", transparency=transparency)

    np.testing.assert_array_equal(decode_image(data), np.asarray(quarters))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_is_dropped_not_blended(
    encode: Encode, quarters: Image.Image, file_format: str, alpha: int
) -> None:
    picture = quarters.copy()
    picture.putalpha(alpha)

    np.testing.assert_array_equal(decode_image(encode(picture, file_format)), np.asarray(quarters))


def test_grey_with_alpha_keeps_its_grey(encode: Encode) -> None:
    decoded = decode_image(encode(Image.new("LA", (4, 4), (90, 0)), "PNG"))

    assert np.unique(decoded).tolist() == [90]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(encode: Encode, file_format: str) -> None:
    values = np.array([[0, 257, 12_850, 32_768, 65_535]], np.uint16)

    decoded = decode_image(encode(Image.fromarray(values), file_format))

    assert decoded[0, :, 0].tolist() == [0, 1, 50, 128, 255]
    assert np.ptp(decoded, axis=2).max() == 0


def test_sixteen_bit_grey_in_the_other_byte_order_is_the_same(encode: Encode) -> None:
    values = np.array([[0, 257, 12_850, 32_768, 65_535]], np.dtype(">u2"))
    data = encode(Image.frombytes("I;16B", (5, 1), values.tobytes()), "TIFF")

    assert decode_image(data)[0, :, 0].tolist() == [0, 1, 50, 128, 255]


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4)], ids=["rgb", "rgba"])
def test_sixteen_bit_colours_are_scaled_not_clipped(colour_type: int, channels: int) -> None:
    colour = np.array([257 * 200, 257 * 100, 257 * 7, 0], np.uint16)[:channels]

    decoded = decode_image(sixteen_bit_png(np.tile(colour, (2, 3, 1)), colour_type))

    assert decoded.shape == (2, 3, 3)
    assert decoded[1, 2].tolist() == [200, 100, 7]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_that_are_no_colours_are_refused(encode: Encode, mode: str) -> None:
    with pytest.raises(BadImageError, match="32 bits"):
        decode_image(encode(Image.new(mode, (4, 4)), "TIFF"))


@pytest.mark.parametrize(
    ("inks", "colour"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ],
    ids=["paper", "cyan", "magenta", "yellow", "black"],
)
@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_inks_become_the_colours_they_print(
    encode: Encode, file_format: str, inks: tuple[int, ...], colour: tuple[int, ...]
) -> None:
    decoded = decode_image(encode(Image.new("CMYK", (8, 8), inks), file_format))

    assert np.abs(decoded.astype(int) - colour).max() <= 2


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(encode: Encode, quarters: Image.Image, mode: str) -> None:
    if mode == "LAB":
        picture = Image.new("LAB", (4, 4), (136, 208, 195))
        expected = np.array([250, 3, 11])
    else:
        picture = quarters.convert("YCbCr")
        expected = np.asarray(quarters).astype(int)

    decoded = decode_image(encode(picture, "TIFF")).astype(int)

    assert np.abs(decoded - expected).max() <= 6


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_counts(encode: Encode, file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    lossless = {"lossless": True} if file_format == "WEBP" else {}

    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **lossless)

    assert np.unique(decode_image(data).reshape(-1, 3), axis=0).tolist() == [list(RED)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
class TestOrientation:
    def turned(
        self, encode: Encode, quarters: Image.Image, file_format: str, orientation: int
    ) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        best = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
        return encode(quarters, file_format, exif=exif, **best.get(file_format, {}))

    def test_is_ignored_by_default(
        self, encode: Encode, quarters: Image.Image, file_format: str, orientation: int
    ) -> None:
        data = self.turned(encode, quarters, file_format, orientation)

        decoded = decode_image(data).astype(int)

        assert np.abs(decoded - np.asarray(quarters)).max() <= 3

    def test_is_honoured_on_demand(
        self, encode: Encode, quarters: Image.Image, file_format: str, orientation: int
    ) -> None:
        data = self.turned(encode, quarters, file_format, orientation)
        exif = Image.Exif()
        exif[0x0112] = orientation
        marked = quarters.copy()
        marked.getexif()[0x0112] = orientation
        upright = np.asarray(ImageOps.exif_transpose(marked)).astype(int)

        decoded = decode_image(data, apply_exif=True).astype(int)

        assert decoded.shape == upright.shape
        assert np.abs(decoded - upright).max() <= 3


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("apply_exif", [False, True])
def test_damaged_exif_does_not_spoil_the_picture(
    encode: Encode, quarters: Image.Image, file_format: str, apply_exif: bool
) -> None:
    data = encode(quarters, file_format, exif=b"Exif\x00\x00garbage!")

    assert decode_image(data, apply_exif=apply_exif).shape == (16, 32, 3)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(encode: Encode, file_format: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), file_format)

    with pytest.raises(BadImageError, match="truncated or damaged"):
        decode_image(data[: int(len(data) * kept)])


def test_a_truncated_inked_jpeg_is_refused_too(encode: Encode) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 4), np.uint8)
    data = encode(Image.fromarray(noise, "CMYK"), "JPEG")

    with pytest.raises(BadImageError, match="truncated or damaged"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"%!PS-Adobe-3.0"],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(BadImageError):
        decode_image(data)


def test_formats_outside_the_list_are_not_even_tried(encode: Encode) -> None:
    with pytest.raises(BadImageError):
        decode_image(encode(Image.new("RGB", (8, 8)), "PPM"))


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_give_a_picture_or_a_refusal_and_nothing_else(
    encode: Encode, quarters: Image.Image, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    file_format = ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"][seed % 6]
    damaged = np.frombuffer(encode(quarters, file_format), np.uint8).copy()
    places = rng.integers(8, len(damaged), 12)
    damaged[places] = rng.integers(0, 256, 12)

    try:
        decoded = decode_image(damaged.tobytes())
    except BadImageError:
        return
    assert decoded.ndim == 3
    assert decoded.shape[2] == 3
