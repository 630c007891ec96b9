"""The command `tandem`: its parts are in `profiles.commands`."""

from __future__ import annotations

import sys

import typer

from profiles.commands import catalog, config, runs, shadow
from profiles.commands.demo import demo
from profiles.commands.doctor import doctor
from profiles.commands.health import health
from profiles.commands.run import CONTEXT_SETTINGS as RUN_CONTEXT
from profiles.commands.run import run
from profiles.commands.shell import shell
from profiles.commands.simulate import simulate
from profiles.commands.validate import validate
from profiles.commands.watch import watch
from profiles.commands.wires import wires

app = typer.Typer(
    help="Measure with two generations of instrument drivers on the same wires.",
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


def main() -> None:
    """Run the command; errors that a user can mend are told in a line, without a traceback."""
    try:
        app()
    except Exception as error:
        from catalog.errors import CatalogError
        from coexistence.errors import CoexistenceError
        from simulators.errors import SimulatorError

        if not isinstance(error, CoexistenceError | CatalogError | SimulatorError):
            raise
        print(f"tandem: {error}", file=sys.stderr)
        sys.exit(1)
