"""The command `tandem run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from profiles.commands.options import Configurations, DataDirectory, Json, Simulate, finish

FOR_PLANS = "Around a plan"

CONTEXT_SETTINGS = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,  # a plan has options of its own
    "help_option_names": [],  # and a help of its own
}


def run(
    context: typer.Context,
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="SCRIPT|PLAN", help="A Python file, or the name of a plan.", show_default=False),
    ] = None,
    config: Configurations = None,
    simulate: Simulate = False,
    data_dir: DataDirectory = None,
    list_: Annotated[bool, typer.Option("--list", "-l", help="List the plans.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Move nothing: check the arguments and tell points, moves, duration and data.",
            rich_help_panel=FOR_PLANS,
        ),
    ] = False,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="PNG file: the readings while they come, with the fit; in a dry run the path.",
            rich_help_panel=FOR_PLANS,
        ),
    ] = None,
    shutter: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Open this shutter (laser.shutter) for the plan, and close it whatever becomes of it.",
            rich_help_panel=FOR_PLANS,
        ),
    ] = None,
    watch_power: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With --shutter: meter whose power is watched.", rich_help_panel=FOR_PLANS),
    ] = None,
    min_power: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Lowest power of the watched meter.", rich_help_panel=FOR_PLANS),
    ] = None,
    max_power: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Highest power of the watched meter.", rich_help_panel=FOR_PLANS),
    ] = None,
    keep: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar='"DEVICE LOW HIGH"',
            help="With --shutter: positions at which it may be open. May be given several times.",
            rich_help_panel=FOR_PLANS,
        ),
    ] = None,
    dark: Annotated[
        int, typer.Option(help="With --shutter: number of dark readings before.", min=0, rich_help_panel=FOR_PLANS)
    ] = 0,
    normalise: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="SIGNAL/MONITOR",
            help="Store the ratio of two columns too: power_v2_power/power_v4_power.",
            rich_help_panel=FOR_PLANS,
        ),
    ] = None,
    repeat: Annotated[
        int, typer.Option(help="Run the plan so many times, each a run.", min=1, rich_help_panel=FOR_PLANS)
    ] = 1,
    repeat_delay: Annotated[
        float, typer.Option(help="Time between two of them, in s.", min=0.0, rich_help_panel=FOR_PLANS)
    ] = 0.0,
    json: Json = False,
) -> None:
    """Run a plan, or a script with a session's names as its globals.

    tandem run --list lists the plans, tandem run PLAN --help tells the options of one. Devices are named by their ids;
    parts as in stages.axis.1 or laser.shutter; power stands for both power_v2 and power_v4.

    Arguments after a script, best behind --, are given to it.
    """
    if target in (None, "-h", "--help") and not list_:
        typer.echo(context.get_help())
        raise typer.Exit(0)
    if list_:
        from profiles.run import list_plans

        finish(lambda: list_plans(json_output=json))
    assert target is not None
    if target.endswith(".py"):
        from profiles.run import run_script

        arguments = context.args
        finish(
            lambda: run_script(Path(target), arguments, config=config or ["sim"], simulate=simulate, data_dir=data_dir)
        )
    from plans.catalogue import CATALOGUE

    if target not in CATALOGUE:
        import difflib

        meant = difflib.get_close_matches(target, CATALOGUE, n=1)
        suggestion = f" (did you mean {meant[0]!r}?)" if meant else ""
        plans = ", ".join(CATALOGUE)
        raise typer.BadParameter(f"{target!r} is neither a Python file nor a plan{suggestion}; the plans are: {plans}")
    from profiles.plan_command import run_command
    from profiles.run import RunOptions, run_plan

    plan = CATALOGUE[target]
    options = RunOptions(
        config=config or ["sim"],
        simulate=simulate,
        data_dir=data_dir,
        json_output=json,
        dry_run=dry_run,
        picture=picture,
        shutter=shutter,
        watch_power=watch_power,
        min_power=min_power,
        max_power=max_power,
        keep=[_kept(text) for text in keep or ()],
        dark=dark,
        normalise=_ratio(normalise),
        repeat=repeat,
        repeat_delay=repeat_delay,
    )
    if shutter is None and (watch_power or keep or dark or min_power is not None or max_power is not None):
        raise typer.BadParameter("--watch-power, --min-power, --max-power, --keep and --dark need --shutter")
    run_command(plan, context.args, lambda given: run_plan(plan, given, options))


def _kept(text: str) -> tuple[str, float, float]:
    try:
        name, low, high = text.split()
        return name, float(low), float(high)
    except ValueError:
        raise typer.BadParameter(f'--keep {text!r}: expected is "DEVICE LOW HIGH"') from None


def _ratio(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    signal, slash, monitor = text.partition("/")
    if not (signal and slash and monitor):
        raise typer.BadParameter(f"--normalise {text!r}: expected is SIGNAL/MONITOR, two columns")
    return signal, monitor
