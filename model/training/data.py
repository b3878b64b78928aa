"""What a run learns from and what it is measured on, read and checked before it starts."""

from collections.abc import Iterator
from dataclasses import dataclass

from model.annotations.annotated import AnnotationSet, Problem
from model.annotations.check import find_problems, refuse_broken
from model.annotations.formats import read_annotations
from model.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Data:
    """The classes in label order, and the pictures."""

    class_names: tuple[str, ...]
    train: AnnotationSet
    validation: AnnotationSet | None


def load_data(config: TrainConfig, *, check: bool) -> Data:
    """Read what ``config`` names.

    Args:
        config: Names the data, and the share of the training pictures that is held out.
        check: Look at every picture's header and every object's coordinates too.

    Raises:
        ValueError: Something is broken, or classes do not match; it is named.
        OSError: A file cannot be read.
    """
    train = read_annotations(config.train_data, config.train_images)
    if check:
        refuse_broken(_problems(train, config), config.train_data)
    class_names = config.class_names or train.class_names
    if missing := [name for name in class_names if name not in train.class_names]:
        raise ValueError(f"{config.train_data} has no class {', '.join(missing)}")
    validation = None
    if config.val_data is not None:
        validation = read_annotations(config.val_data, config.val_images)
        if check:
            refuse_broken(_problems(validation, config), config.val_data)
        if not set(class_names) & set(validation.class_names):
            raise ValueError(
                f"{config.val_data} has none of the classes {', '.join(class_names)}; "
                f"it has {', '.join(validation.class_names)}"
            )
    elif config.val_fraction:
        train, validation = train.split(config.val_fraction, config.seed)
    return Data(class_names, train, validation)


def _problems(annotations: AnnotationSet, config: TrainConfig) -> Iterator[Problem]:
    return find_problems(annotations, thorough=False, apply_exif=config.apply_exif)
