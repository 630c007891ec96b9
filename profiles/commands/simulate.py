"""The command `tandem simulate`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from profiles.commands.options import finish


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

    finish(lambda: run_simulate(config, time_scale=time_scale, seed=seed, json_output=json))
