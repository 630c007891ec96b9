"""From recorded shadow readings to verdicts: the stream `shadow` of runs, read from their journals."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from catalog import UnknownRun, find_journal
from catalog.directory import DataDirectory, uid_of_journal
from catalog.errors import CatalogError, NoCatalog
from catalog.journal import read_run, recorded_runs
from coexistence.config import Generation
from coexistence.migration.evidence import Evidence, SignalEvidence, Verdict, write_evidence
from plans.shadow import SHADOW_STREAM, Comparison, Pairs, Tolerance, compare, compare_texts, row_columns

_WORST_FIRST: tuple[Verdict, ...] = ("different", "insufficient", "equivalent")


class NoShadow(CatalogError):
    """No run that was looked at has a stream `shadow`; `data_dir` is where, `looked_at` how many runs."""

    def __init__(self, data_dir: Path, looked_at: int) -> None:
        self.data_dir, self.looked_at = data_dir, looked_at
        super().__init__(
            f"none of the {looked_at} runs looked at in {data_dir} has shadow readings: give an instrument of the "
            'other generation shadow_of = "<id>" in the configuration, or wrap a plan in plans.shadowed, and measure'
        )


class NoSuchSignal(CatalogError):
    """A tolerance was stated for a signal that no shadow read; `column` is its name, `columns` are those there are."""

    def __init__(self, column: str, columns: Sequence[str]) -> None:
        self.column, self.columns = column, tuple(columns)
        super().__init__(
            f"no shadow has read {column!r}, for which a tolerance is given; read were {', '.join(columns)}"
        )


@dataclass
class Signal:
    """What was read of one column of an instrument and of its twin."""

    column: str
    unit: str
    twin_unit: str
    is_text: bool
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    """A value and its time, four times a row: original, twin, original, twin."""
    events: list[str] = field(default_factory=list)

    def compared(self, tolerance: Tolerance, among: int = 1) -> Comparison:
        """Return what can be said of it, compared together with others."""
        if self.is_text:
            before, _, twin, _, after, *_ = zip(*self.rows, strict=True) if self.rows else [()] * 8
            return compare_texts(self.column, before, twin, after, tolerance, self.events)
        return compare(self.column, self.pairs, tolerance, unit=self.unit, twin_unit=self.twin_unit, among=among)

    @property
    def pairs(self) -> Pairs:
        """The rows as arrays; empty for texts."""
        return Pairs.of([] if self.is_text else self.rows, () if self.is_text else self.events)


Found = dict[tuple[str, str, str, bool], "ShadowedInstrument"]
"""By original, twin, generation of the original, and whether they were simulated."""


@dataclass
class ShadowedInstrument:
    """An instrument, its twin, and everything both read side by side."""

    original: str
    twin: str
    generation: Generation
    signals: dict[str, Signal] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    latest: float = 0.0
    simulated: bool = False
    """Whether the runs were made on simulated instruments."""

    @property
    def twin_generation(self) -> Generation:
        """The other generation."""
        return "v4" if self.generation == "v2" else "v2"

    def compared(self, tolerances: Tolerances) -> list[Comparison]:
        """Compare all signals."""
        numbers = sum(not signal.is_text for signal in self.signals.values())
        return [signal.compared(tolerances.of(signal.column), max(numbers, 1)) for signal in self.signals.values()]


@dataclass(frozen=True)
class Tolerances:
    """What is tolerated, by column; `default` for the others."""

    default: Tolerance = field(default_factory=Tolerance)
    by_column: Mapping[str, Tolerance] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str], **others: Any) -> Tolerances:
        """Return the tolerances that texts such as `1%` (for all) and `power_power=0.5%` state.

        Raises
        ------
        ValueError
            A text says something else.
        """
        default = Tolerance(**others)
        by_column = {}
        for text in texts:
            column, equals, value = text.rpartition("=")
            tolerance = Tolerance.parse(value, **others)
            if equals:
                by_column[column.strip()] = tolerance
            else:
                default = tolerance
        return cls(default, by_column)

    def of(self, column: str) -> Tolerance:
        """Return what is tolerated of a column."""
        return self.by_column.get(column, self.default)


def shadowed_instruments(
    data_dir: str | os.PathLike[str], *, run: str | None = None, since: float | None = None
) -> list[ShadowedInstrument]:
    """Return what instruments and their twins read side by side, in one run or in all that began after a moment.

    An instrument that has changed over since is told as it is used now: readings from before are left out. So are those
    of simulated instruments, once there are any of the real ones.

    Raises
    ------
    NoCatalog, UnknownRun
        There is no such data directory, or no such run in it.
    NoShadow
        None of the runs has shadow readings.
    """
    directory = DataDirectory.at(data_dir)
    if not directory.journals.is_dir():
        raise NoCatalog(Path(data_dir))
    uids = recorded_runs(data_dir, since) if run is None else [uid_of_journal(find_journal(data_dir, run))]
    found: Found = {}
    for uid in reversed(uids):
        with contextlib.suppress(UnknownRun):  # removed since it was listed
            _collect(data_dir, uid, found, since)
    latest: dict[str, ShadowedInstrument] = {}
    for instrument in sorted(found.values(), key=lambda instrument: (not instrument.simulated, instrument.latest)):
        latest[instrument.original] = instrument
    if not latest:
        raise NoShadow(Path(data_dir), len(uids))
    return list(latest.values())


def store_evidence(
    data_dir: str | os.PathLike[str], instrument: ShadowedInstrument, comparisons: Iterable[Comparison]
) -> Evidence:
    """Keep what was found about an instrument where the decision to move it is taken."""
    found = evidence_of(instrument, list(comparisons))
    write_evidence(data_dir, found)
    return found


def evidence_of(instrument: ShadowedInstrument, comparisons: list[Comparison]) -> Evidence:
    """Return what was found about an instrument: the worst verdict of its signals."""
    signals = {
        comparison.signal.removeprefix(instrument.original).removeprefix("_"): SignalEvidence(
            verdict=_verdict(comparison),
            reason="; ".join(comparison.reasons),
            n=comparison.n,
            needed=comparison.needed,
            tolerance=_absolute(comparison, instrument),
            units=comparison.unit or None,
        )
        for comparison in comparisons
    }
    verdict = min((signal.verdict for signal in signals.values()), key=_WORST_FIRST.index, default="insufficient")
    reasons = [
        f"{comparison.signal}: {'; '.join(comparison.reasons)}"
        for comparison in comparisons
        if _verdict(comparison) == verdict and comparison.reasons
    ]
    scarcest = min(comparisons, key=lambda comparison: comparison.n / comparison.needed, default=None)
    return Evidence(
        instrument=instrument.original,
        instrument_generation=instrument.generation,
        shadow=instrument.twin,
        shadow_generation=instrument.twin_generation,
        verdict=cast(Verdict, verdict),
        reason="; ".join(reasons),
        n=scarcest.n if scarcest else 0,
        needed=scarcest.needed if scarcest else None,
        runs=tuple(instrument.runs),
        time=time.time(),
        simulated=instrument.simulated,
        signals=signals,
    )


def _verdict(comparison: Comparison) -> Verdict:
    return "insufficient" if comparison.verdict == "insufficient evidence" else comparison.verdict


def _absolute(comparison: Comparison, instrument: ShadowedInstrument) -> float | None:
    signal = instrument.signals[comparison.signal]
    return None if signal.is_text else comparison.tolerance.for_pairs(signal.pairs)


def _collect(data_dir: str | os.PathLike[str], uid: str, found: Found, since: float | None) -> None:
    """Add the rows of one run to what was found."""
    start: Mapping[str, Any] = {}
    descriptors: dict[str, list[tuple[Signal, str]]] = {}
    for name, document in read_run(data_dir, uid):
        if name == "start":
            if not document.get("shadow") or (since is not None and document["time"] < since):
                return
            start = document
        elif name == "descriptor" and document.get("name") == SHADOW_STREAM:
            descriptors[document["uid"]] = list(_signals_of(start, document, found))
        elif name == "event" and document["descriptor"] in descriptors:
            _take_row(document, descriptors[document["descriptor"]], f"{start['uid'][:8]}:{document['seq_num']}")


def _signals_of(
    start: Mapping[str, Any],
    descriptor: Mapping[str, Any],
    found: Found,
) -> Iterator[tuple[Signal, str]]:
    keys = descriptor["data_keys"]
    for twin, original in start["shadow"].items():
        columns = [
            (original + key.removeprefix(twin), key)
            for key in keys
            if (key == twin or key.startswith(f"{twin}_")) and row_columns(key)[0] in keys
        ]
        if not columns:
            continue
        facts = start.get("instruments", {}).get(original, {})
        generation = cast(Generation, facts.get("generation", "v2"))
        simulated = bool(facts.get("simulated"))
        instrument = found.setdefault(
            (original, twin, generation, simulated), ShadowedInstrument(original, twin, generation, simulated=simulated)
        )
        instrument.latest = max(instrument.latest, start["time"])
        if start["uid"] not in instrument.runs:
            instrument.runs.append(start["uid"])
        for column, twin_column in columns:
            key, twin_key = keys[row_columns(twin_column)[0]], keys[twin_column]
            unit, twin_unit = key.get("units") or "", twin_key.get("units") or ""
            is_text = key["dtype"] == "string"
            signal = instrument.signals.setdefault(column, Signal(column, unit, twin_unit, is_text))
            if twin_unit != unit:  # in any of the runs
                signal.unit, signal.twin_unit = unit, twin_unit
            yield signal, twin_column


def _take_row(event: Mapping[str, Any], signals: list[tuple[Signal, str]], name: str) -> None:
    data, times = event["data"], event["timestamps"]
    for signal, twin_column in signals:
        signal.rows.append(tuple(value for key in row_columns(twin_column) for value in (data[key], times[key])))
        signal.events.append(name)
