"""What recording costs a scan, beside no recording and beside a plain TiledWriter, in one run.

    python -m benchmarks.capture [--quick] [--output FILE]

The scan takes 200 events a second: three columns, and 4 ms of waiting for each point. Its length is that of the call of
the RunEngine. The fixed cost is that of a run with one event and no waiting, over the same run without recording. The
plain TiledWriter writes to the same server, in its default setting (rows reach the server when the run ends) and with
one row at a time (rows are visible while the run goes on). Visible is what another process reads from the catalog:
seconds from an event's own time until a reader, which asks again and again, has the event's row.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky import RunEngine
from ophyd.sim import SynAxis, SynGauss
from tiled.structures.core import Spec

from benchmarks.harness import emit, interleave, ratio, summary
from catalog import CatalogSession

POINT_S = 0.004

READER = """
import sys, time
from catalog import open_catalog

catalog = open_catalog(sys.argv[1], wait=60.0)
print("ready", flush=True)
seen = 0
uid = sys.stdin.readline().strip()
while seen < int(sys.argv[2]):
    if uid in catalog and "primary" in catalog[uid] and "internal" in (streams := catalog[uid]["primary"].base):
        table = streams["internal"].read(["seq_num", "time"])
        now = time.time()
        for moment in table["time"].iloc[seen:]:
            print(now - moment, flush=True)
        seen = len(table)
"""


class Bench:
    """A RunEngine, two devices, and a catalog with its server."""

    def __init__(self, directory: Path) -> None:
        self.session = CatalogSession(directory)
        self.runs = self.session.catalog(wait=60.0)
        self.engine = RunEngine({})
        motor = SynAxis(name="motor")
        self.devices = [SynGauss("det", motor, "motor", center=0, Imax=1), motor]

    def scan(self, events: int, point_s: float = POINT_S) -> float:
        """Return the seconds a scan takes."""

        @bpp.run_decorator(md={"plan_name": "bench"})
        def plan() -> Any:
            for _ in range(events):
                yield from bps.trigger_and_read(self.devices)
                if point_s:
                    yield from bps.sleep(point_s)

        started = perf_counter()
        self.engine(plan())
        return perf_counter() - started

    def recorded_by(self, subscriber: Callable[[str, dict[str, Any]], object], measure: Callable[[], float]) -> float:
        """Return what a measure takes while its runs are recorded."""
        token = self.engine.subscribe(subscriber)
        try:
            return measure()
        finally:
            self.engine.unsubscribe(token)

    def plain_writer(self, **options: int) -> Any:
        """Return a TiledWriter into a container of its own."""
        from bluesky_tiled_plugins import TiledWriter
        from tiled.client import from_context

        root = from_context(self.runs.context)
        if "plain" not in root:
            root.create_container(key="plain", specs=[Spec("CatalogOfBlueskyRuns", "3.0")])
        return TiledWriter(root["plain"], **options)

    def visibility(self, events: int) -> list[float]:
        """Return how long after it happened each event was read by another process."""
        command = [sys.executable, "-c", READER, str(self.session.directory.root), str(events)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None
            reader.stdout.readline()

            def tell(name: str, document: dict[str, Any]) -> None:
                if name == "start":
                    print(document["uid"], file=reader.stdin, flush=True)

            token = self.engine.subscribe(tell)
            self.recorded_by(self.session.journal, partial(self.scan, events))
            self.engine.unsubscribe(token)
            reader.stdin.close()
            return [float(line) for line in reader.stdout]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything: to see that it runs")
    parser.add_argument("--output", help="also write the JSON to this file")
    options = parser.parse_args()
    rounds, events, short_rounds = (3, 200, 10) if options.quick else (10, 1000, 40)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "data")
        plain, one_by_one = bench.plain_writer(), bench.plain_writer(batch_size=1)
        journal = bench.session.journal
        scan, run = partial(bench.scan, events), partial(bench.scan, 1, 0.0)
        long = interleave(
            rounds,
            {
                "none": scan,
                "journal": partial(bench.recorded_by, journal, scan),
                "tiled_writer": partial(bench.recorded_by, plain, scan),
            },
        )
        short = interleave(
            short_rounds,
            {
                "none": run,
                "journal": partial(bench.recorded_by, journal, run),
                "tiled_writer": partial(bench.recorded_by, plain, run),
            },
        )
        each = bench.recorded_by(one_by_one, partial(bench.scan, 20, 0.0)) / 20
        visible = bench.visibility(events)
        more = {name: np.subtract(short[name], short["none"]).tolist() for name in ("journal", "tiled_writer")}
        emit(
            {
                "events_each_scan": events,
                "scan_s": {name: summary(values, unit=1.0) for name, values in long.items()},
                "events_per_s_without_recording": round(events / float(np.median(long["none"])), 1),
                "scan_over_none": {name: ratio(long[name], long["none"]) for name in ("journal", "tiled_writer")},
                "fixed_cost_of_a_run_ms": {name: summary(values, unit=1e-3) for name, values in more.items()},
                "tiled_writer_one_by_one_ms_an_event": round(each * 1e3, 1),
                "visible_to_another_process_s": {
                    **summary(visible, unit=1.0),
                    "longest": round(max(visible), 3),
                },
            },
            options.output,
        )
        bench.session.close(wait_delivered=120.0)


if __name__ == "__main__":
    main()
