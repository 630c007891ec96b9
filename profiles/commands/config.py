"""The commands `tandem config ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from profiles.commands.migration import cutover, migrate, rollback, status
from profiles.commands.options import Json, finish

app = typer.Typer(help="Make and check configuration files: what is on the bench, in TOML.", no_args_is_help=True)


@app.command("check")
def config_check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="TOML files, later ones over earlier ones.")],
    json: Json = False,
    hardware: Annotated[bool, typer.Option(help="Also look whether the ports are there.")] = True,
) -> None:
    """Tell everything that is wrong with a configuration, each with a suggestion and its line.

    Exits with 0 when nothing is wrong, else with 1.
    """
    from profiles.config_check import check_files

    finish(lambda: check_files(files, json_output=json, hardware=hardware))


@app.command("new")
def config_new(
    file: Annotated[Path, typer.Argument(help="The file to write. One that is there is replaced only if you say so.")],
) -> None:
    """Make a configuration by questions and answers, from what is plugged in.

    Lists serial ports, VISA resources and cameras, and asks instruments who they are: `*IDN?`, or what their type
    has for that. Nothing is set or moved. The file is written at the end and passes `tandem config check`.
    """
    from profiles.config_new import run_new

    finish(lambda: run_new(file))


@app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of configuration files, by which editors complete and check them.

    Save it beside the file and begin the file with `#:schema ./tandem.schema.json`.
    """
    from profiles.config_schema import print_schema

    finish(print_schema)


app.command()(migrate)
app.command()(status)
app.command()(cutover)
app.command()(rollback)
