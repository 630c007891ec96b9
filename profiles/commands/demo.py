"""The command `tandem demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from profiles.commands.options import Json, finish

DEMO_DATA_DIRECTORY = Path("demo-data")


def demo(
    json: Json = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the catalog's server and web page running.")] = False,
    data_dir: Annotated[Path, typer.Option("--data-dir", "-d", help="Where runs are kept.")] = DEMO_DATA_DIRECTORY,
) -> None:
    """Show the whole idea on simulated instruments: a scan with both generations, and its query from the catalog.

    Rotates a polarizer from 0 to 180 degrees, reads one power meter with the v2 and the v4 driver through the same
    port, fits Malus's law to what the catalog says about the run, and draws it.
    """
    from profiles.demo import run_demo

    finish(lambda: run_demo(data_dir=data_dir, json_output=json, keep=keep))
