"""The command `tandem`. Whatever is heavy is imported by the command that needs it, so that help comes at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

app = typer.Typer(
    help="Measure with two generations of instrument drivers on the same wires.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Check configuration files.", no_args_is_help=True)
catalog_app = typer.Typer(help="Look after the catalog of recorded runs.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(catalog_app, name="catalog")

Configuration = Annotated[
    str,
    typer.Option("--config", "-c", help="TOML file, or the name of a profile that comes with the project: sim, lab."),
]
Simulate = Annotated[bool, typer.Option("--simulate", "-s", help="Put simulated instruments in place of all wires.")]
# typer evaluates annotations at run time and wants Optional for an option without a default.
DataDirectory = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--data-dir", "-d", help="Where runs are kept. Default: as configured, else ./tandem-data."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line, everything else to stderr.")
]

DEMO_DATA_DIRECTORY = Path("demo-data")


@app.command()
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

    _finish(lambda: run_demo(data_dir=data_dir, json_output=json, keep=keep))


@app.command()
def shell(config: Configuration = "sim", simulate: Simulate = False, data_dir: DataDirectory = None) -> None:
    """Start IPython with a session: RE, devices, catalog, plans and every device by its name."""
    from profiles.shell import start_shell

    _finish(lambda: start_shell(config, simulate=simulate, data_dir=data_dir))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})
def run(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="SCRIPT|PLAN", help="A Python file, or the plan: malus.")],
    config: Configuration = "sim",
    simulate: Simulate = False,
    data_dir: DataDirectory = None,
    power: Annotated[list[str] | None, typer.Option(help="Id of a power meter; may be given several times.")] = None,
    rotator: Annotated[str, typer.Option(help="Id of the rotator that carries the polarizer.")] = "polarizer",
    start: Annotated[float, typer.Option(help="First position in degrees.")] = 0.0,
    stop: Annotated[float, typer.Option(help="Last position in degrees.")] = 180.0,
    num: Annotated[int, typer.Option(help="Number of positions.", min=4)] = 37,
    json: Json = False,
) -> None:
    """Run a script with a session's names as its globals, or a plan of the project.

    Arguments after `--` are given to the script.
    """
    from profiles.run import run_malus, run_script

    if target.endswith(".py"):
        arguments = context.args
        _finish(lambda: run_script(Path(target), arguments, config=config, simulate=simulate, data_dir=data_dir))
    if target != "malus":
        raise typer.BadParameter(f"{target!r} is neither a Python file nor a plan; the plans are: malus")
    _finish(
        lambda: run_malus(
            power or [],
            rotator,
            start,
            stop,
            num,
            config=config,
            simulate=simulate,
            data_dir=data_dir,
            json_output=json,
        )
    )


@app.command(context_settings={"ignore_unknown_options": True})  # -1 is a run, no option
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
        _finish(lambda: list_runs(data_dir, number, json_output=json))
    _finish(lambda: show_run(data_dir, which, json_output=json))


@app.command()
def simulate(
    config: Annotated[str, typer.Argument(help="TOML file, or the name of a profile: sim, lab.")] = "sim",
    time_scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Below 1 lines and motion are faster than real. Default: as configured.", min=1e-3),
    ] = None,
    seed: Annotated[Optional[int], typer.Option(help="Of all noise. Default: as configured.")] = None,  # noqa: UP045
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Run the simulated instruments of a configuration until stopped, for other programs to talk to.

    Prints the port or address of each.
    """
    from profiles.simulate import run_simulate

    _finish(lambda: run_simulate(config, time_scale=time_scale, seed=seed, json_output=json))


@app.command()
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

    _finish(lambda: run_validate(config, simulate=simulate, output=output, readings=readings, json_output=json))


@config_app.command("check")
def config_check(
    files: Annotated[list[str], typer.Argument(help="One or several TOML files, later ones over earlier ones.")],
    json: Json = False,
    hardware: Annotated[bool, typer.Option(help="Also look whether the ports are there.")] = True,
) -> None:
    """Tell everything that is wrong with a configuration, each with a suggestion and its line.

    Exits with 0 when nothing is wrong, else with 1.
    """
    from profiles.config_check import check_files

    _finish(lambda: check_files(files, json_output=json, hardware=hardware))


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of configuration files, for editors that complete and check TOML."""
    import json

    from coexistence.config import DualConfig

    typer.echo(json.dumps(DualConfig.model_json_schema(), indent=1))


@catalog_app.command("stop")
def catalog_stop(data_dir: Annotated[Path, typer.Argument(help="The data directory.")] = Path("tandem-data")) -> None:
    """Stop a catalog's server that was kept, once everything is delivered."""
    from catalog import shut_down

    stopped = shut_down(data_dir)
    typer.echo("The catalog has stopped." if stopped else "Other sessions use the catalog; it stays until they end.")


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


def _finish(work: Callable[[], int]) -> NoReturn:
    """Do the work of a command and end with its exit code; with 130, as shells expect, after Ctrl-C."""
    try:
        exit_code = work()
    except KeyboardInterrupt:
        exit_code = 130
    raise typer.Exit(exit_code)
