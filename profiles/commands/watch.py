"""The command `tandem watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from profiles.commands.options import Simulate, finish


def watch(
    columns: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[NAME]...", help="Instruments or columns. Default: all."),
    ] = None,
    config: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--config", "-c", help="Open a session on this file or profile, instead of a running one."),
    ] = None,
    simulate: Simulate = False,
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data-dir", "-d", help="Only a session whose runs are kept there."),
    ] = None,
    duration: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--for", help="Seconds after which to stop. Default: until Ctrl-C.", min=0.1),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each measurement.")] = False,
) -> None:
    """Show live what the instruments of both generations say: values, rates and sparklines.

    Looks into the running session; instruments are asked only when nobody else needs their wire.
    """
    from profiles.watch import watch as show

    finish(
        lambda: show(
            config,
            simulate=simulate,
            data_dir=data_dir,
            columns=columns or [],
            duration_s=duration,
            json_output=json,
        )
    )
