"""The command `tandem runs`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from profiles.commands.options import DataDirectory, Json, finish


def runs(
    which: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[RUN]", help="Scan number, beginning of a uid, or -1 for the latest."),
    ] = None,
    data_dir: DataDirectory = None,
    number: Annotated[int, typer.Option("--number", "-n", help="How many runs to list.", min=1)] = 20,
    json: Json = False,
) -> None:
    """List the latest runs in the catalog, or show one."""
    from profiles.runs import list_runs, show_run

    if which is None:
        finish(lambda: list_runs(data_dir, number, json_output=json))
    finish(lambda: show_run(data_dir, which, json_output=json))
