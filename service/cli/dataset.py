"""Annotated pictures: looking for mistakes in them, and writing them in another format."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import MofNCompleteColumn

from service.cli.options import ApplyExifOption
from service.cli.terminal import fail, progress_bar, say, train_extra

app = typer.Typer(help="Check and convert annotated pictures.", no_args_is_help=True)

DataArgument = Annotated[
    Path,
    typer.Argument(help="COCO .json, Azure .jsonl or MLTable folder, folder with VOC masks."),
]
ImagesOption = Annotated[
    Path | None, typer.Option(help="Folder of the pictures, if not beside the annotations.")
]


@app.command()
def check(
    data: DataArgument,
    images: ImagesOption = None,
    apply_exif: ApplyExifOption = None,
) -> None:
    """Name every annotation that training could not use. Exit code 1 if there is one."""
    with train_extra():
        from model.annotations.check import find_problems
        from model.annotations.formats import read_annotations

    try:
        annotations = read_annotations(data, images)
        with progress_bar(MofNCompleteColumn()) as bar:
            task = bar.add_task("checking", total=len(annotations.images))
            problems = list(
                find_problems(
                    annotations,
                    apply_exif=bool(apply_exif),
                    progress=lambda done, _: bar.update(task, completed=done),
                )
            )
    except (ValueError, OSError) as error:
        fail(error)
    for problem in problems:
        say(f"{'error' if problem.fatal else 'note'}: {problem}")
    objects = sum(len(image.objects) for image in annotations.images)
    errors = sum(problem.fatal for problem in problems)
    say(
        f"{len(annotations.images)} pictures, {objects} objects, "
        f"{len(annotations.class_names)} classes: {', '.join(annotations.class_names)}; "
        f"{errors} errors, {len(problems) - errors} notes"
    )
    if errors:
        raise typer.Exit(1)


@app.command()
def convert(
    data: DataArgument,
    out: Annotated[Path, typer.Argument(help="Folder to make; pictures are copied into it.")],
    to: Annotated[Literal["coco", "azure", "voc"], typer.Option(help="Format to write.")],
    images: ImagesOption = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="With azure: put before the pictures' names, azureml://.../images"),
    ] = None,
) -> None:
    """Write a data set in another format."""
    with train_extra():
        from model.annotations.check import find_problems, refuse_broken
        from model.annotations.formats import read_annotations, write_annotations

    try:
        annotations = read_annotations(data, images)
        refuse_broken(find_problems(annotations, thorough=False), data)
        lost = write_annotations(annotations, out, to, base_url=base_url)
    except (ValueError, OSError) as error:
        fail(error)
    for problem in lost:
        say(f"left out: {problem}")
    objects = sum(len(image.objects) for image in annotations.images) - len(lost)
    say(f"{out}: {len(annotations.images)} pictures, {objects} objects")
