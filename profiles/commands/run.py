"""The command `tandem run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from profiles.commands.options import Configuration, DataDirectory, Json, Simulate, finish


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
        finish(lambda: run_script(Path(target), arguments, config=config, simulate=simulate, data_dir=data_dir))
    if target != "malus":
        raise typer.BadParameter(f"{target!r} is neither a Python file nor a plan; the plans are: malus")
    finish(
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
