"""`tandem shadow report` and `tandem shadow watch`: verdicts on twins as table, picture and JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from catalog.errors import ExportError
from catalog.moments import period
from plans.shadow import Comparison
from profiles.console import json_text, say
from profiles.runs_plot import check_picture_ending
from profiles.shadow_evidence import (
    NoShadow,
    NoSuchSignal,
    ShadowedInstrument,
    Tolerances,
    shadowed_instruments,
    store_evidence,
)

WATCH_INTERVAL_S = 1.0
SHOWN_OUTLIERS = 5
_STYLES = {"equivalent": "green", "different": "bold red", "insufficient evidence": "yellow"}

Compared = list[tuple[ShadowedInstrument, list[Comparison]]]


def report_shadow(
    data_dir: Path,
    run: str | None,
    *,
    since: str | None,
    tolerances: Tolerances,
    picture: Path | None,
    json_output: bool,
) -> int:
    """Compare what twins read, print the verdicts and keep them as evidence; return the exit code.

    It is 0 when all pairs are equivalent, 1 when one is different, 2 when evidence is missing. A report about a
    single run is not kept.
    """
    if picture is not None:
        check_picture_ending(picture)
    compared = compare_all(data_dir, run, since, tolerances)
    columns = [column for instrument, _ in compared for column in instrument.signals]
    for column in tolerances.by_column:
        if column not in columns:
            raise NoSuchSignal(column, columns)
    if run is None:
        for instrument, comparisons in compared:
            store_evidence(data_dir, instrument, comparisons)
    if picture is not None:
        try:
            draw(compared, tolerances, picture)
        except OSError as error:
            raise ExportError(picture, f"'{picture}' cannot be written: {error.strerror or error}.") from error
    if json_output:
        print(json_text(_as_json(compared)))
    else:
        console = Console()
        console.print(view(compared))
        if picture is not None:
            say(console, f"picture: {picture}")
    verdicts = {comparison.verdict for _, comparisons in compared for comparison in comparisons}
    return 1 if "different" in verdicts else 2 if "insufficient evidence" in verdicts else 0


def watch_shadow(data_dir: Path, run: str | None, *, since: str | None, tolerances: Tolerances) -> int:
    """Show the verdicts anew while runs go on, until Ctrl-C."""
    with Live(console=Console(), refresh_per_second=4) as live:
        while True:
            began = time.monotonic()
            try:
                live.update(view(compare_all(data_dir, run, since, tolerances)))
            except NoShadow:
                live.update(Text("waiting for the first run with shadow readings ..."))
            # Reading many long journals takes longer than a second: leave the machine to the measurement.
            time.sleep(max(WATCH_INTERVAL_S, 3 * (time.monotonic() - began)))


def compare_all(data_dir: Path, run: str | None, since: str | None, tolerances: Tolerances) -> Compared:
    """Compare all signals of all twins in the runs asked for."""
    moment = None if since is None else period(since)[0]
    instruments = shadowed_instruments(data_dir, run=run, since=moment)
    return [(instrument, instrument.compared(tolerances)) for instrument in instruments]


def view(compared: Compared) -> Group:
    """Return what was found as tables."""
    return Group(*(part for instrument, comparisons in compared for part in _parts(instrument, comparisons)))


def _parts(instrument: ShadowedInstrument, comparisons: Sequence[Comparison]) -> list[Any]:
    count = len(instrument.runs)
    # No title of the table: that would be broken into lines as wide as the table.
    title = Text(
        f"{instrument.original} ({instrument.generation}) and its shadow {instrument.twin} "
        f"({instrument.twin_generation}), {count} run{'s' * (count != 1)}",
        "bold",
    )
    table = Table()
    table.add_column("")
    for comparison in comparisons:
        unit = f" / {comparison.unit}" if comparison.unit else ""
        table.add_column(f"{comparison.signal}{unit}", justify="right")
    for heading, described in _ROWS.items():
        table.add_row(heading, *map(described, comparisons))
    parts: list[Any] = [title, table]
    for comparison in comparisons:
        parts.append(Text(f"{comparison.signal}: {comparison}", _STYLES[comparison.verdict]))
        for outlier in comparison.outliers[:SHOWN_OUTLIERS]:
            whose = ", and the original does not agree with itself" if outlier.of_original else ""
            parts.append(Text(f"   {outlier.event}: {outlier.twin} where the original read {outlier.original}{whose}"))
        more = len(comparison.outliers) - SHOWN_OUTLIERS
        if more > 0:
            parts.append(Text(f"   and {more} more, see --json"))
        if comparison.discarded:
            parts.append(Text(f"   {comparison.discarded} readings are missing"))
    return parts


def _limits(comparison: Comparison) -> str:
    limits = comparison.limits_of_agreement
    return "-" if limits is None else f"{limits[0]:+.3g} … {limits[1]:+.3g}"


_ROWS: dict[str, Callable[[Comparison], str]] = {
    "pairs of readings": lambda comparison: str(comparison.n),
    "bias": lambda comparison: _number(comparison.bias, comparison.bias_error),
    "spread": lambda comparison: _number(comparison.spread),
    "95 % of differences": _limits,
    "slope": lambda comparison: _number(comparison.slope, comparison.slope_error),
    "correlation": lambda comparison: _number(comparison.correlation),
    "lag / ms": lambda comparison: _number(comparison.lag_s, comparison.lag_error_s, scale=1e3),
    "outliers": lambda comparison: str(len(comparison.outliers)),
    "tolerated": lambda comparison: str(comparison.tolerance),
}


def draw(compared: Compared, tolerances: Tolerances, path: Path) -> None:
    """Draw the differences over the level, with limits of agreement and tolerance (Bland and Altman).

    A bar says what a truth that changed while a row was measured may have added to its difference.
    """
    from matplotlib.figure import Figure

    panels = [
        (instrument.signals[comparison.signal], comparison)
        for instrument, comparisons in compared
        for comparison in comparisons
        if not instrument.signals[comparison.signal].is_text
    ]
    figure = Figure(figsize=(7.0, 3.2 * max(len(panels), 1)), layout="constrained")
    axes = figure.subplots(max(len(panels), 1), squeeze=False)[:, 0]
    for axis, (signal, comparison) in zip(axes, panels, strict=False):
        pairs = signal.pairs
        unit = f" ({signal.unit})" if signal.unit else ""
        level, difference = (pairs.original + pairs.twin) / 2, pairs.twin - pairs.original
        far = np.isin(pairs.events, [outlier.event for outlier in comparison.outliers])
        axis.errorbar(
            level[~far],
            difference[~far],
            pairs.slack[~far],
            fmt=".",
            markersize=4,
            elinewidth=0.6,
            alpha=0.6,
            label="rows, bars: what moved meanwhile",
        )
        if far.any():
            axis.plot(level[far], difference[far], "x", color="tab:red", label="far off")
        tolerated = tolerances.of(signal.column).for_pairs(pairs)
        axis.axhspan(-tolerated, tolerated, color="tab:green", alpha=0.12, label="tolerated")
        for limit in comparison.limits_of_agreement or ():
            axis.axhline(limit, color="gray", linestyle="--", linewidth=1)
        if comparison.bias is not None:
            axis.axhline(comparison.bias, color="gray", linewidth=1, label="bias, 95 % limits")
        axis.set(xlabel=f"{signal.column}{unit}", ylabel=f"difference{unit}", title=comparison.verdict)
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _as_json(compared: Compared) -> list[dict[str, Any]]:
    return [
        {
            "instrument": instrument.original,
            "generation": instrument.generation,
            "shadow": instrument.twin,
            "runs": instrument.runs,
            "signals": [comparison.as_json() for comparison in comparisons],
        }
        for instrument, comparisons in compared
    ]


def _number(value: float | None, error: float | None = None, *, scale: float = 1.0) -> str:
    if value is None:
        return "-"
    text = f"{value * scale:.4g}"
    return f"{text} ± {error * scale:.2g}" if error else text
