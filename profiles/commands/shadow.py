"""The commands `tandem shadow ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from profiles.commands.options import Json, PastRuns, finish
from profiles.data_directory import DEFAULT_DATA_DIRECTORY

if TYPE_CHECKING:
    from profiles.shadow_evidence import Tolerances

app = typer.Typer(help="Compare instruments with their shadows of the other generation.", no_args_is_help=True)

Run = Annotated[
    Optional[str],  # noqa: UP045
    typer.Argument(metavar="[RUN]", help="Beginning of a run's uid. Default: all runs with shadow readings."),
]
Since = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Only runs begun from then on: yesterday, '3 days', 2026-06."),
]
TOLERANCE_HELP = (
    "What does not matter: 1% (of the largest value), 0.002 (in the unit of the signal) or 1%+0.002; "
    "for one column as power_power=0.5%. May be given several times. Default: 1%."
)
ToleranceTexts = Annotated[Optional[list[str]], typer.Option("--tolerance", "-t", help=TOLERANCE_HELP)]  # noqa: UP045
Lag = Annotated[float, typer.Option("--lag", help="Delay in ms that does not matter.", min=0.001)]
OutlierRate = Annotated[
    float,
    typer.Option(help="Share of wrong readings to exclude before a pair is called equivalent.", min=1e-4, max=0.49),
]


@app.command("report")
def shadow_report(
    run: Run = None,
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    since: Since = None,
    tolerance: ToleranceTexts = None,
    lag: Lag = 20.0,
    outlier_rate: OutlierRate = 0.005,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--picture", "-p", help="Draw the differences into this file (PNG, PDF, SVG)."),
    ] = None,
    json: Json = False,
) -> None:
    """Say of each pair whether both generations are the same measurement, and keep that for `tandem config cutover`.

    Exits with 0 when all signals are equivalent, with 1 when one is different, with 2 when evidence is missing.
    """
    from profiles.shadow_report import report_shadow

    tolerances = _tolerances(tolerance, lag, outlier_rate)
    finish(lambda: report_shadow(data_dir, run, since=since, tolerances=tolerances, picture=picture, json_output=json))


@app.command("watch")
def shadow_watch(
    run: Run = None,
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    since: Since = None,
    tolerance: ToleranceTexts = None,
    lag: Lag = 20.0,
    outlier_rate: OutlierRate = 0.005,
) -> None:
    """Show the comparison while runs go on, until Ctrl-C."""
    from profiles.shadow_report import watch_shadow

    tolerances = _tolerances(tolerance, lag, outlier_rate)
    finish(lambda: watch_shadow(data_dir, run, since=since, tolerances=tolerances))


def _tolerances(texts: list[str] | None, lag_ms: float, outlier_rate: float) -> Tolerances:
    from profiles.shadow_evidence import Tolerances

    try:
        return Tolerances.parse(texts or [], lag_s=lag_ms / 1000, outlier_rate=outlier_rate)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
