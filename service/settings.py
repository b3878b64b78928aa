"""Everything a deployment may set, read from the environment here and nowhere else."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

_PREFIX = "SOLOV2_"
_MIB = 1024**2


class SettingsError(ValueError):
    """A setting that cannot be used; the text is one line naming the variable and why."""


class Settings(BaseSettings):
    """One field per variable: ``port`` is ``SOLOV2_PORT``. The last part of a name is its unit."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, populate_by_name=True
    )

    host: str = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=65535)] = 5001  # 0 takes any free one
    grace_s: PositiveFloat = 30  # from SIGTERM to the end of the process

    weights: Path | None = None
    azureml_model_dir: Annotated[Path | None, Field(validation_alias="AZUREML_MODEL_DIR")] = None
    devices: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.05
    polygon_tolerance_px: Annotated[float, Field(ge=0)] = 0.75
    apply_exif: bool = False

    scoring_timeout_ms: Annotated[
        PositiveInt,
        Field(validation_alias=AliasChoices("SOLOV2_SCORING_TIMEOUT_MS", "SCORING_TIMEOUT_MS")),
    ] = 60_000
    max_queue_images: PositiveInt = 256
    max_queue_bytes: PositiveInt = 512 * _MIB

    max_body_bytes: PositiveInt = 100_000_000
    body_timeout_s: PositiveFloat = 30
    max_images_per_request: PositiveInt = 128
    max_image_bytes: PositiveInt = 32 * _MIB
    max_image_pixels: PositiveInt = 50_000_000
    max_image_side: PositiveInt = 16_384
    max_jpeg_scans: PositiveInt = 64

    @property
    def weights_path(self) -> Path:
        """The weights file, or a folder that holds it."""
        return self.weights or self.azureml_model_dir or _shipped_weights()

    @classmethod
    def load(cls, **given: object) -> Self:
        """The environment's settings, with those that are given and not None on top.

        Raises:
            SettingsError: A value cannot be used.
        """
        try:
            return cls.model_validate({k: v for k, v in given.items() if v is not None})
        except ValidationError as error:
            raise SettingsError(_describe(error)) from None


def _shipped_weights() -> Path:
    """Beside this package, in the repository as in an installed wheel."""
    return Path(__file__).parents[1] / "weights" / "default.safetensors"


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]).upper()
    variable = name if name.startswith((_PREFIX, "AZUREML_")) else _PREFIX + name
    return f"{variable}: {first['msg']}, got {first['input']!r}"


def cache_folder() -> Path:
    """Where downloads are kept: ``$XDG_CACHE_HOME/solov2``, else ``~/.cache/solov2``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "solov2"
