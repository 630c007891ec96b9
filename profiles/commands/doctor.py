"""The command `tandem doctor`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from profiles.commands.options import DataDirectory, OneJson, finish


def doctor(
    config: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A TOML file or profile whose ports and directories are looked at as well."),
    ] = None,
    data_dir: DataDirectory = None,
    json: OneJson = False,
) -> None:
    """Find out what of this computer keeps a bench from working, and what to do about it.

    Looks at Python and package versions, packages that hide ours, serial ports and who may and does use them, VISA
    backends, the data directory and its catalog. Opens and changes nothing. Exits with 1 when something is a problem.
    """
    from profiles.doctor import run_doctor

    finish(lambda: run_doctor(config, data_dir=data_dir, json_output=json))
