"""The commands `tandem config ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from profiles.commands.options import Json, finish

app = typer.Typer(help="Check configuration files.", no_args_is_help=True)


@app.command("check")
def config_check(
    files: Annotated[list[str], typer.Argument(help="One or several TOML files, later ones over earlier ones.")],
    json: Json = False,
    hardware: Annotated[bool, typer.Option(help="Also look whether the ports are there.")] = True,
) -> None:
    """Tell everything that is wrong with a configuration, each with a suggestion and its line.

    Exits with 0 when nothing is wrong, else with 1.
    """
    from profiles.config_check import check_files

    finish(lambda: check_files(files, json_output=json, hardware=hardware))


@app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of configuration files, for editors that complete and check TOML."""
    import json

    from coexistence.config import DualConfig

    typer.echo(json.dumps(DualConfig.model_json_schema(), indent=1))
