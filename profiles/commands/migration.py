"""The commands that move instruments from v2 to v4, parts of `tandem config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from profiles.commands.options import DataDirectory, Json, finish

Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="The configuration: TOML files, later ones over earlier ones.")
]
Sure = Annotated[
    bool, typer.Option("--yes", "-y", "--force", help="Do not ask, also when the evidence is missing or bad.")
]


def migrate(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The old file: flat, or with sections v2 and v4.")],
    # typer evaluates annotations at run time and wants Optional for an option without a default.
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Where the new file goes; else it is printed."),
    ] = None,
    to: Annotated[
        Literal["v2", "v4"], typer.Option(help="The section for the instruments; v2 leaves the drivers as they are.")
    ] = "v4",
    shadows: Annotated[
        bool, typer.Option("--shadows", help="With --to v2: give each instrument a twin in v4 that shadows it.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Tell what was done as one JSON object, to stderr.")] = False,
) -> None:
    """Convert an old configuration, and tell what was done with each instrument.

    Reads flat files (with a table instruments.ID for each) and files with sections v2 and v4. Comments are kept, and
    the old file is left as it is. What is told goes to stderr. Exits with 1 when an instrument needs a hand.
    """
    from profiles.migration import run_migrate

    finish(lambda: run_migrate(old, output=output, to=to, shadows=shadows, force=force, json_output=json))


def cutover(
    instrument: Annotated[str, typer.Argument(metavar="ID", help="The instrument that is to be v4.")],
    files: Files,
    data_dir: DataDirectory = None,
    yes: Sure = False,
    json: Json = False,
) -> None:
    """Move an instrument from v2 to v4 in its file; its name and columns stay.

    A twin that shadows it changes roles with it. Asks first when the evidence of shadow runs is missing or bad.
    """
    from profiles.migration import run_switch

    finish(lambda: run_switch(instrument, files, to="v4", data_dir=data_dir, sure=yes, json_output=json))


def rollback(
    instrument: Annotated[str, typer.Argument(metavar="ID", help="The instrument that is to be v2 again.")],
    files: Files,
    json: Json = False,
) -> None:
    """Move an instrument back from v4 to v2 in its file; its name and columns stay."""
    from profiles.migration import run_switch

    finish(lambda: run_switch(instrument, files, to="v2", data_dir=None, sure=True, json_output=json))


def status(files: Files, data_dir: DataDirectory = None, json: Json = False) -> None:
    """Tell what is still v2, with the evidence of shadow runs, removal dates and the next step.

    Exits with 1 when a removal date has passed.
    """
    from profiles.migration_status import run_status

    finish(lambda: run_status(files, data_dir=data_dir, json_output=json))
