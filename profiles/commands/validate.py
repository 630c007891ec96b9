"""The command `tandem validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from profiles.commands.options import Json, Simulate, finish


def validate(
    config: Annotated[str, typer.Argument(help="TOML file, or the name of a profile.")],
    simulate: Simulate = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Where the report goes. Default: validation-<time>.json in this folder."),
    ] = None,
    readings: Annotated[int, typer.Option(help="How many readings are timed.", min=1)] = 10,
    json: Json = False,
) -> None:
    """Ask each instrument what it is, measures and is set to, and compare it with its simulator.

    Nothing moves, no shutter opens, no setting changes. Every exchange is in the report. Exits with 0 when every
    instrument answered as it should, else with 1.
    """
    from profiles.validate import run_validate

    finish(lambda: run_validate(config, simulate=simulate, output=output, readings=readings, json_output=json))
