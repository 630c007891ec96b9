"""The command `tandem`: its parts are in `profiles.commands`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from profiles.commands import catalog, config, runs, shadow
from profiles.commands.demo import demo
from profiles.commands.doctor import doctor
from profiles.commands.health import health
from profiles.commands.help_texts import let_paragraphs_flow
from profiles.commands.run import CONTEXT_SETTINGS as RUN_CONTEXT
from profiles.commands.run import run
from profiles.commands.shell import shell
from profiles.commands.simulate import simulate
from profiles.commands.validate import validate
from profiles.commands.watch import watch
from profiles.commands.wires import wires

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(shell)
app.command(context_settings=RUN_CONTEXT)(run)
app.command()(wires)
app.command()(health)
app.command()(doctor)
app.command()(simulate)
app.command()(validate)
app.command()(watch)
app.add_typer(config.app, name="config")
app.add_typer(catalog.app, name="catalog")
app.add_typer(runs.app, name="runs")
app.add_typer(shadow.app, name="shadow")
let_paragraphs_flow(app)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"ophyd-tandem {version('ophyd-tandem')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Measure with two generations of instrument drivers on the same wires."""


def main() -> None:
    """Run the command; errors that a user can mend are told in a line, without a traceback."""
    try:
        app()
    except Exception as error:
        from catalog.errors import CatalogError, NoCatalog, UnknownRun
        from coexistence.errors import CoexistenceError
        from simulators.errors import SimulatorError

        if not isinstance(error, CoexistenceError | CatalogError | SimulatorError):
            raise
        hint = ""
        if isinstance(error, NoCatalog):
            hint = " --data-dir takes it, and the configuration file that names it."
        if isinstance(error, UnknownRun) and not error.matches:
            hint = " Give a scan number, the beginning of a uid, or -1 for the latest: 'tandem runs list' shows them."
        print(f"tandem: {error}{hint}", file=sys.stderr)
        sys.exit(1)
