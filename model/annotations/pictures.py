"""The sizes of picture files, without decoding them."""

from pathlib import Path

from PIL import Image

from model.image_file import orientation


def picture_size(path: Path, *, apply_exif: bool = False) -> tuple[int, int]:
    """(width, height) in pixels, as the file's header says.

    Raises:
        ValueError: There is no such file, or it is no picture; the text names it.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
        turned = apply_exif and orientation(path.read_bytes()) >= 5
    except FileNotFoundError as error:
        raise ValueError(f"there is no picture {path}") from error
    except (OSError, SyntaxError) as error:  # what Pillow raises for what it does not know
        raise ValueError(f"{path} is no picture that can be read") from error
    return (height, width) if turned else (width, height)
