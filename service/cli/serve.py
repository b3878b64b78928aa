"""Being the service."""

from typing import Annotated

import typer

from service.cli.options import DeviceOption, PrecisionOption, WeightsOption, load_settings


def serve(
    port: Annotated[int | None, typer.Option(help="Port to listen on; 5001 unless set.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; all unless set.")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Answer POST /score until told to stop. SOLOV2_* variables set everything else."""
    from service.web.server import serve as run_server

    settings = load_settings(
        port=port, host=host, weights=weights, devices=device, precision=precision
    )
    raise typer.Exit(run_server(settings))
