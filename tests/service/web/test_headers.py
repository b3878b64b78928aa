import struct

import pytest
from image_files import encode, exif, noise, png_chunk, short, tiff, with_chunks
from PIL import Image

from service.errors import BadImageError
from service.web.headers import read_header


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"icc_profile": bytes(200_000), "exif": exif(6)}),
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"exif": exif(6)}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": exif(6)}),
        ("WEBP", {"lossless": True, "exif": exif(6)}),
    ],
    ids=lambda value: value if isinstance(value, str) else " and ".join(value),
)
@pytest.mark.parametrize(("width", "height"), [(30, 20), (1, 1), (517, 3)])
def test_the_stored_size_is_read(
    file_format: str, options: dict[str, object], width: int, height: int
) -> None:
    data = encode(noise(width, height), file_format, **options)

    assert read_header(data) == (file_format, (width, height))


def test_sizes_that_need_every_bit_are_read() -> None:
    assert read_header(encode(Image.new("1", (300_000, 2)), "PNG")) == ("PNG", (300_000, 2))
    assert read_header(encode(Image.new("1", (300_000, 2)), "TIFF")) == ("TIFF", (300_000, 2))
    assert read_header(encode(Image.new("L", (65_000, 2)), "JPEG")) == ("JPEG", (65_000, 2))
    assert read_header(encode(Image.new("L", (16_383, 2)), "WEBP")) == ("WEBP", (16_383, 2))


def test_a_canvas_of_a_webp_may_be_larger_than_its_frames() -> None:
    data = bytearray(encode(noise(), "WEBP", exif=exif(1)))
    data[24:30] = (100_000 - 1).to_bytes(3, "little") + (70_000 - 1).to_bytes(3, "little")

    assert read_header(bytes(data)) == ("WEBP", (100_000, 70_000))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [(1, "B3x"), (3, "H2x"), (4, "I")])
def test_a_tiff_gives_its_size_in_any_type_and_order(order: str, kind: int, form: str) -> None:
    sides = b"".join(
        struct.pack(f"{order}HHI{form}", tag, kind, 1, side) for tag, side in ((256, 30), (257, 20))
    )
    magic = b"II*\x00" if order == "<" else b"MM\x00*"

    data = magic + struct.pack(f"{order}IH", 8, 2) + sides + bytes(4)

    assert read_header(data) == ("TIFF", (30, 20))


@pytest.mark.parametrize("rows", [20, -20])
def test_rows_of_a_bmp_may_go_either_way(rows: int) -> None:
    data = bytearray(encode(noise(30, 20), "BMP"))
    data[22:26] = struct.pack("<i", rows)

    assert read_header(bytes(data)) == ("BMP", (30, 20))


def test_a_bmp_of_the_first_kind_is_read() -> None:
    data = b"BM" + struct.pack("<IIIIHHHH", 100, 0, 26, 12, 30, 20, 1, 24)

    assert read_header(data) == ("BMP", (30, 20))


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.7", b"<svg/>", b"\x00" * 100, b"GIF88a"])
def test_formats_outside_the_list_are_refused(data: bytes) -> None:
    with pytest.raises(BadImageError, match="not a JPEG, PNG, BMP, TIFF, WebP or GIF image"):
        read_header(data)


@pytest.mark.parametrize(
    ("file_format", "magic_bytes"),
    [("JPEG", 3), ("PNG", 8), ("BMP", 2), ("GIF", 6), ("TIFF", 4), ("WEBP", 12)],
)
def test_a_file_that_is_cut_anywhere_gives_its_size_or_is_refused(
    file_format: str, magic_bytes: int
) -> None:
    data = encode(noise(8, 5), file_format)
    outcomes = set()

    for length in range(magic_bytes, len(data)):
        try:
            outcomes.add(read_header(data[:length]))
        except BadImageError as error:
            outcomes.add(str(error))

    refusal = f"the {file_format} header is damaged, cut short or declares no pixels"
    assert refusal in outcomes
    assert outcomes <= {refusal, (file_format, (8, 5))}


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"iCCP", struct.pack(">II", 8, 8)),
        b"RIFF\x00\x00\x00\x00WEBPWXYZ" + b"\x01" * 40,
        b"RIFF\x00\x00\x00\x00WEBPVP8 " + b"\x01" * 40,
        b"RIFF\x00\x00\x00\x00WEBPVP8L" + b"\x01" * 40,
        tiff(8, 8, {256: (12, 1, bytes(8))}, bytes(64)),
        tiff(0, 8, {}, b""),
        b"\xff\xd8\xff\xda\x00\x02\xff\xd9",
        b"BM" + bytes(12) + struct.pack("<Iii", 40, -8, 8),
    ],
)
def test_a_header_without_a_usable_size_is_refused(data: bytes) -> None:
    with pytest.raises(BadImageError, match="header is damaged, cut short or declares no pixels"):
        read_header(data)


def test_what_follows_the_size_is_not_looked_at() -> None:
    broken = with_chunks(encode(noise(), "PNG"), b"\xff" * 1000)

    assert read_header(broken) == ("PNG", (64, 48))
    assert read_header(tiff(8, 8, {258: short(*range(9))}, b"")) == ("TIFF", (8, 8))
