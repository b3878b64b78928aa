"""Everything a deployment may set, read from the environment here and nowhere else."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import idna
from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_PREFIX = "SOLOV2_"
_MIB = 1024**2
_HOST_NAME = re.compile(r"[0-9a-z_-]+(\.[0-9a-z_-]+)*")


def _split(value: object) -> object:
    """``"a, b"`` -> ``["a", "b"]``."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _stripped(value: object) -> object:
    """Files and secret stores like to end a key with a line break."""
    return value.strip() if isinstance(value, str) else value


def _auto_alone(devices: tuple[str, ...]) -> tuple[str, ...]:
    if not devices or ("auto" in devices and len(devices) > 1):
        raise ValueError("auto, or a list of cpu, cuda and cuda:N with one worker for each entry")
    return devices


def _host_pattern(entry: str) -> str:
    """In lower case and ASCII; what begins with a dot stands for all hosts below it."""
    name = re.sub(r"^\*?\.", "", entry)
    dot = "" if name == entry else "."
    try:
        ascii_name = name.lower() if name.isascii() else idna.encode(name.lower()).decode()
    except idna.IDNAError:
        ascii_name = ""
    if not _HOST_NAME.fullmatch(ascii_name):
        raise ValueError("no host name such as example.com, nor .example.com for those below it")
    return dot + ascii_name


def _azure(name: str, azures: str | None = None) -> Any:
    """Read ``SOLOV2_<name>``, else the variable that Azure's own server reads."""
    return Field(validation_alias=AliasChoices(_PREFIX + name, azures or name))


PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
Devices = Annotated[
    tuple[Device, ...], NoDecode, BeforeValidator(_split), AfterValidator(_auto_alone)
]
ApiKey = Annotated[SecretStr, BeforeValidator(_stripped), Field(min_length=1)]
HostPattern = Annotated[str, AfterValidator(_host_pattern)]
HostPatterns = Annotated[tuple[HostPattern, ...], NoDecode, BeforeValidator(_split)]


class SettingsError(ValueError):
    """A setting that cannot be used; the text is one line naming the variable and why."""


class Settings(BaseSettings):
    """One field per variable: ``port`` is ``SOLOV2_PORT``. The last part of a name is its unit."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, populate_by_name=True
    )

    host: str = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=65535)] = 5001  # 0 takes any free one
    drain_delay_s: Annotated[float, Field(ge=0)] = 2  # from SIGTERM to the last connection taken
    grace_s: PositiveFloat = 30  # from SIGTERM to the end of the process
    api_key: ApiKey | None = None  # that /score asks for; behind Azure's endpoints they ask
    metrics: bool = True
    viewer: bool = True
    tracing: bool = False  # where to is OpenTelemetry's to say: OTEL_* variables

    weights: Path | None = None
    azureml_model_dir: Annotated[Path | None, Field(validation_alias="AZUREML_MODEL_DIR")] = None
    devices: Devices = ("auto",)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.05
    polygon_tolerance_px: Annotated[float, Field(ge=0)] = 0.75
    apply_exif: bool = False

    service_name: Annotated[str, _azure("SERVICE_NAME")] = "ML service"
    service_version: Annotated[str, _azure("SERVICE_VERSION")] = "1.0"
    service_path_prefix: Annotated[str, _azure("SERVICE_PATH_PREFIX")] = ""
    server_version_header: Annotated[
        bool,
        _azure("SERVER_VERSION_HEADER", "SERVER_VERSION_LOG_RESPONSE_ENABLED"),
        BeforeValidator(lambda value: str(value).lower() == "true"),  # as Azure reads it
    ] = True
    cors_origins: Annotated[CommaSeparated, _azure("CORS_ORIGINS", "AML_CORS_ORIGINS")] = ()

    scoring_timeout_ms: Annotated[PositiveInt, _azure("SCORING_TIMEOUT_MS")] = 60_000
    worker_timeout_s: PositiveFloat = 30  # without a sign from a busy worker, until it is replaced
    max_batch_size: PositiveInt = 8
    max_batch_pixels: PositiveInt = 16_000_000
    max_batch_delay_ms: Annotated[float, Field(ge=0)] = 3
    max_queue_images: PositiveInt = 256
    max_queue_bytes: PositiveInt = 512 * _MIB

    max_body_bytes: PositiveInt = 100_000_000
    max_inflight_bytes: PositiveInt = 512 * _MIB
    body_timeout_s: PositiveFloat = 30
    max_images_per_request: PositiveInt = 128
    max_image_bytes: PositiveInt = 32 * _MIB
    max_image_pixels: PositiveInt = 50_000_000
    max_image_side: PositiveInt = 16_384
    max_image_aspect: PositiveInt = 1000
    max_jpeg_scans: PositiveInt = 64
    url_policy: Literal["public", "allowlist", "disabled"] = "public"
    url_allowlist: HostPatterns = ()
    url_allow_private: bool = False  # private and loopback addresses; never those of metadata
    url_timeout_s: PositiveFloat = 10
    max_json_depth: PositiveInt = 32

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
