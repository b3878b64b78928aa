"""Options that several commands have, and the settings they end up in."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from service.cli.terminal import fail
from service.settings import Settings, SettingsError

WeightsOption = Annotated[
    Path | None, typer.Option(help="Weights file or folder; the shipped model unless given.")
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PrecisionOption = Annotated[Literal["auto", "fp32", "bf16", "fp16"] | None, typer.Option()]
ApplyExifOption = Annotated[
    bool | None,
    typer.Option("--apply-exif", help="Turn pictures as EXIF says; the annotations must agree."),
]


def load_settings(**given: object) -> Settings:
    try:
        return Settings.load(**given)
    except SettingsError as error:
        fail(error)
