"""Annotated pictures as the rest of the project knows them, whatever file they were read from."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

#: COCO's: rings ``[x0, y0, x1, y1, ...]`` in pixels, or run lengths (``size`` and ``counts``).
Segmentation = Sequence[Sequence[float]] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """One object of one picture, or a region of many where ``crowd`` is set.

    ``area`` in pixels and ``box`` (x, y, width, height) are what a COCO file says of them; other
    formats do not tell.
    """

    label: str
    segmentation: Segmentation
    place: str  # where it was read, for people
    crowd: bool = False
    area: float | None = None
    box: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """A picture's file, the size in pixels that its annotations are for, and what is in it."""

    path: Path
    height: int
    width: int
    objects: tuple[AnnotatedObject, ...]
    place: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a data set, and where.

    A ``fatal`` one keeps it from being used; others cost an object, or less than one.
    """

    place: str
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True, slots=True)
class AnnotationSet:
    """A data set; ``problems`` were found on reading, and what has them is left out."""

    class_names: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    problems: tuple[Problem, ...] = ()

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Two sets of different pictures; the second holds that share of them, at least one.

        Raises:
            ValueError: There are not two pictures.
        """
        if len(self.images) < 2:
            raise ValueError("there are not enough pictures to hold some out")
        order = list(range(len(self.images)))
        random.Random(seed).shuffle(order)
        count = min(max(1, round(fraction * len(order))), len(order) - 1)
        held_out = set(order[:count])
        first, second = (
            tuple(image for n, image in enumerate(self.images) if (n in held_out) == chosen)
            for chosen in (False, True)
        )
        return replace(self, images=first), replace(self, images=second, problems=())
