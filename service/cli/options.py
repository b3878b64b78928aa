"""Options that several commands have, and the settings they end up in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.cli.terminal import fail
from service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from service.client import Client

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


def connect(url: str) -> "Client":
    """A client of that server, with the key that the settings name."""
    from service.client import Client

    return Client(url, api_key=api_key())


def api_key() -> str | None:
    """What the settings say that servers ask for."""
    key = load_settings().api_key
    return key.get_secret_value() if key else None
