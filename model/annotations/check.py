"""What is wrong with a data set, before training finds out."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pycocotools import mask as rle

from model.annotations.annotated import AnnotatedImage, AnnotatedObject, AnnotationSet, Problem
from model.annotations.masks import faults, run_lengths
from model.annotations.pictures import picture_size
from model.decode import read_image

Progress = Callable[[int, int], None]


def find_problems(
    annotations: AnnotationSet,
    *,
    thorough: bool = True,
    apply_exif: bool = False,
    progress: Progress | None = None,
) -> Iterator[Problem]:
    """All that reading left, then what is wrong with each picture and object, in their order.

    Args:
        annotations: As read.
        thorough: Decode every picture and draw every mask, instead of reading headers and
            coordinates alone.
        apply_exif: Whether annotations refer to pictures turned as their EXIF says.
        progress: Called with (pictures done, pictures in all) after each.
    """
    yield from annotations.problems
    if not annotations.images:
        yield Problem("the data set", "has no picture")
    elif not any(image.objects for image in annotations.images):
        yield Problem("the data set", "has no object")
    places: dict[Path, str] = {}
    for n, image in enumerate(annotations.images, start=1):
        if image.path in places:
            yield Problem(image.place, f"is the same picture as {places[image.path]}", fatal=False)
        places[image.path] = image.place
        yield from _image_problems(image, thorough=thorough, apply_exif=apply_exif)
        if progress is not None:
            progress(n, len(annotations.images))
    yield from _class_problems(annotations)


def refuse_broken(problems: Iterable[Problem], source: Path) -> None:
    """Raise ValueError naming the first few where any is fatal."""
    fatal = [str(problem) for problem in problems if problem.fatal]
    if fatal:
        more = f"; and {len(fatal) - 3} more" if len(fatal) > 3 else ""
        raise ValueError(
            f"{source} cannot be used: {'; '.join(fatal[:3])}{more}. "
            "`solov2 dataset check` lists all"
        )


def _image_problems(
    image: AnnotatedImage, *, thorough: bool, apply_exif: bool
) -> Iterator[Problem]:
    try:
        width, height = picture_size(image.path, apply_exif=apply_exif)
        if thorough:
            read_image(image.path)
    except ValueError as error:
        yield Problem(image.place, str(error))
        return
    if (width, height) != (image.width, image.height):
        yield Problem(
            image.place,
            f"is {width}x{height} pixels, annotated as {image.width}x{image.height}",
        )
    for item in image.objects:
        yield from _object_problems(item, image, thorough=thorough)


def _object_problems(
    item: AnnotatedObject, image: AnnotatedImage, *, thorough: bool
) -> Iterator[Problem]:
    place = f"{item.place} ({item.label} in {image.path.name})"
    found = list(faults(item.segmentation, image.height, image.width))
    for text, fatal in found:
        yield Problem(place, text, fatal)
    if thorough and not any(fatal for _, fatal in found):
        lengths = run_lengths(item.segmentation, image.height, image.width)
        if not rle.area(lengths):
            yield Problem(place, "covers no pixel and is ignored", fatal=False)


def _class_problems(annotations: AnnotationSet) -> Iterator[Problem]:
    used = {o.label for image in annotations.images for o in image.objects if not o.crowd}
    for name in annotations.class_names:
        if name not in used:
            yield Problem(f"class {name}", "has no object", fatal=False)
