"""How long it takes to find past runs in catalogs of 1,000, 10,000 and 100,000 runs on the embedded server.

    python -m benchmarks.history [--runs 1000,10000,100000] [--json FILE] [--plain] [--uri TILED_DATABASE]

The catalogs are seeded in bulk through the tables of tiled's own catalog, once, and kept in ``benchmarks/.cache``.
Times are those of a client in another process, as a user has them: request, database, reply, and the objects made
of it. ``--plain`` measures tiled as it comes, without this project's indexes; ``--uri`` a PostgreSQL database.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import emit

CACHE = Path(__file__).with_name(".cache")
NEWEST_S = 1_780_000_000.0
"""Unix time of the newest run."""
SPACING_S = 600.0
BATCH_RUNS = 500
REPEATS = 7

PLANS = ("count", "scan", "scan", "scan", "rel_scan", "grid_scan", "list_scan", "malus")
SAMPLES = tuple(f"S-{number:03}" for number in range(200))
OPERATORS = ("ada", "grace", "emmy", "lise")
MATERIALS = ("gadolinium", "terbium", "yttrium", "lanthanum", "cerium", "neodymium")
SECRET = "unmistakable"


def run_documents(number: int, of: int, rng: random.Random) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return uid, metadata of the run and of its stream, as large and as varied as those of real runs."""
    uid = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    plan = rng.choice(PLANS)
    began = NEWEST_S - (of - number) * SPACING_S
    points = rng.randrange(5, 200)
    meter = rng.choice(("power_v2", "power_v4"))
    status = rng.choices(("success", "abort", "fail"), (90, 6, 4))[0]
    start = {
        "uid": uid,
        "time": began,
        "scan_id": number + 1,
        "plan_name": plan,
        "plan_type": "generator",
        "detectors": [meter, "lockin"],
        "motors": [] if plan == "count" else ["polarizer"],
        "num_points": points,
        "plan_args": {"detectors": [meter, "lockin"], "num": points, "args": ["polarizer", 0.0, rng.random() * 180]},
        "hints": {"dimensions": [[["polarizer"], "primary"]]},
        "operator": rng.choice(OPERATORS),
        "sample": rng.choice(SAMPLES),
        "proposal": f"P{rng.randrange(60):04}",
        "purpose": f"{rng.choice(MATERIALS)} film at {rng.randrange(4, 300)} K"
        + (f" with the {SECRET} line" if number % 1000 == 500 else ""),
        "campaign": f"campaign {number // 500}",
        "instruments": {
            name: {
                "generation": name[-2:],
                "driver": "devices.newport_1830c",
                "identity": f"NEWPORT 1830-C {rng.randrange(10**6)}",
                "firmware": "1.2",
                "wire": f"/dev/ttyUSB{index}",
            }
            for index, name in enumerate(("power_v2", "power_v4", "polarizer", "lockin"))
        },
        "configuration": {"name": "bench", "fingerprint": uid[:12], "files": ["/home/lab/bench.toml"]},
        "versions": {"bluesky": "1.15.1", "ophyd": "1.11.2", "ophyd_async": "0.21.3", "ophyd_tandem": "0.1.0"},
    }
    stop = {
        "uid": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "run_start": uid,
        "time": began + points,
        "exit_status": status,
        "reason": "" if status == "success" else "the shutter did not open",
        "num_events": {"primary": points},
    }
    keys = {
        name: {"source": f"serial:{name}", "dtype": "number", "shape": [], "units": "W", "dtype_numpy": "<f8"}
        for name in ("polarizer", f"{meter}_power", "lockin_x", "lockin_y")
    }
    stream = {"data_keys": keys, "configuration": {}, "hints": {meter: {"fields": [f"{meter}_power"]}}, "time": began}
    metadata: dict[str, Any] = {"start": start, "stop": stop}
    if number % 97 == 0:
        note = {"time": began + 1e5, "author": "ada", "text": "worth a second look"}
        metadata["annotations"] = {"notes": [note], "tags": ["paper"]}
    return uid, metadata, stream


async def seed_database(uri: str, runs: int) -> None:
    """Fill a new catalog database with runs, in bulk, through tiled's own tables and their triggers."""
    from sqlalchemy import insert
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.catalog import orm
    from tiled.server.connection_pool import json_serializer

    rng = random.Random(20)
    nodes: Any = orm.Node.__table__
    engine = create_async_engine(uri, json_serializer=json_serializer)
    # In a transaction each, and on SQLite without waiting for the disk: the file is thrown away after a crash.
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            await connection.exec_driver_sql("PRAGMA synchronous = OFF")
        container = _node(0, "runs", {}, [{"name": "CatalogOfBlueskyRuns", "version": "3.0"}])
        (parent,) = (await connection.execute(insert(nodes).values(container).returning(nodes.c.id))).one()
        for begin in range(0, runs, BATCH_RUNS):
            made = [run_documents(number, runs, rng) for number in range(begin, min(begin + BATCH_RUNS, runs))]
            rows = [_node(parent, uid, metadata, [_spec("BlueskyRun")]) for uid, metadata, _ in made]
            statement = insert(nodes).returning(nodes.c.id, nodes.c.key, sort_by_parameter_order=True)
            ids = {key: each for each, key in (await connection.execute(statement, rows)).all()}
            streams = [
                _node(ids[uid], "primary", stream, [_spec("BlueskyEventStream"), {"name": "composite", "version": ""}])
                for uid, _, stream in made
            ]
            await connection.execute(insert(nodes), streams)
            await connection.commit()
    await engine.dispose()


def _node(parent: int, key: str, metadata: dict[str, Any], specs: list[dict[str, str]]) -> dict[str, Any]:
    return {"parent": parent, "key": key, "structure_family": "container", "metadata": metadata, "specs": specs}


def _spec(name: str) -> dict[str, str]:
    return {"name": name, "version": "3.0"}


def seeded_directory(root: Path, runs: int) -> Path:
    """Return a data directory with so many runs, made the first time."""
    from catalog.directory import DataDirectory
    from catalog.server import prepare_database

    directory = DataDirectory.at(root / f"runs-{runs}")
    done = directory.root / "seeded"
    if not done.exists():
        shutil.rmtree(directory.root, ignore_errors=True)
        directory.create()
        prepare_database(directory.database)
        asyncio.run(seed_database(f"sqlite+aiosqlite:///{directory.database}", runs))
        done.touch()
    return directory.root


def questions(catalog: Any, runs: int) -> dict[str, Callable[[], int]]:
    """Return what people ask, as functions that return how many runs the answer has."""
    from bluesky_tiled_plugins.queries import TimeRange
    from tiled.queries import FullText, Key

    from catalog import search_runs

    middle = runs // 2
    uid, _, _ = next(documents for number, documents in enumerate(_all_documents(runs, middle + 1)) if number == middle)
    began = NEWEST_S - (runs - middle) * SPACING_S

    def shown(found: Any) -> int:
        """Take the last 20, as a list of runs does."""
        return len([run.metadata["start"]["uid"] for run in found.values().tail(20)])

    return {
        "last 20": lambda: shown(catalog),
        "the latest": lambda: len([catalog[-1].metadata]),
        "by scan number": lambda: int(catalog[middle + 1].metadata["start"]["uid"] == uid),
        "by uid": lambda: len([catalog[uid].metadata]),
        "by partial uid": lambda: int(catalog[uid[:8]].metadata["start"]["uid"] == uid),
        "by plan": lambda: shown(catalog.search(Key("plan_name") == "malus")),
        "by sample": lambda: shown(catalog.search(Key("sample") == "S-042")),
        "by a key of one's own": lambda: shown(catalog.search(Key("campaign") == f"campaign {middle // 500}")),
        "by a key, nothing found": lambda: shown(catalog.search(Key("campaign") == "none")),
        "by a day": lambda: shown(catalog.search(TimeRange(since=began, until=began + 86400))),
        "by the last month": lambda: shown(search_runs(catalog, since=NEWEST_S - 30 * 86400)),
        "by full text": lambda: shown(catalog.search(FullText(SECRET))),
        "by common full text": lambda: shown(catalog.search(FullText("gadolinium"))),
        "by plan and sample": lambda: shown(search_runs(catalog, plan="scan", sample="S-042")),
        "by device": lambda: shown(search_runs(catalog, device="power_v4")),
        "failed since a week": lambda: shown(search_runs(catalog, exit_status="fail", since=NEWEST_S - 7 * 86400)),
        "by tag": lambda: shown(search_runs(catalog, tags="paper")),
        "by note": lambda: shown(search_runs(catalog, note="second look")),
        "how many of a plan": lambda: len(catalog.search(Key("plan_name") == "malus")),
    }


def _all_documents(runs: int, count: int) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    rng = random.Random(20)
    return (run_documents(number, runs, rng) for number in range(count))


def measured(catalog: Any, runs: int) -> dict[str, Any]:
    """Ask each question several times; return seconds: the first time, the median of the others, and the best."""
    results = {}
    for name, ask in questions(catalog, runs).items():
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            found = ask()
            times.append(time.perf_counter() - began)
        rest = statistics.median(times[1:])
        results[name] = {
            "first_s": round(times[0], 4),
            "median_s": round(rest, 4),
            "best_s": round(min(times), 4),
            "found": found,
        }
        line = f"{runs:>7}  {name:<26} {times[0]:8.3f} {rest:8.3f} {min(times):8.3f} s  {found}"
        print(line, file=sys.stderr, flush=True)
    return results


@contextlib.contextmanager
def served(root: Path) -> Iterator[Any]:
    """Serve a seeded directory as sessions do."""
    from catalog import CatalogSession

    session = CatalogSession(root)
    try:
        yield session.catalog(wait=120.0)
    finally:
        session.close(wait_delivered=60.0)


@contextlib.contextmanager
def served_from(uri: str, root: Path) -> Iterator[Any]:
    """Serve a database of one's own with tiled as it comes."""
    import socket
    import subprocess

    from catalog.client import connect
    from catalog.directory import DataDirectory

    directory = DataDirectory.at(root)
    directory.create()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tiled", "serve", "catalog", uri, "--port", str(port)]
    environment = {**os.environ, "TILED_SINGLE_USER_API_KEY": directory.read_key()}
    process = subprocess.Popen(
        [*command, "--write", str(directory.arrays), "--api-key", directory.read_key()],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                catalog = connect(directory, f"http://127.0.0.1:{port}", 10.0)
                break
            except Exception:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.2)
        yield catalog
    finally:
        process.terminate()
        process.wait()


def prepare_postgresql(uri: str, runs: int) -> None:
    """Make the tables of tiled's catalog in an empty PostgreSQL database, and fill them."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from tiled.alembic_utils import stamp_head
    from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
    from tiled.catalog.core import initialize_database

    async def initialize() -> None:
        engine = create_async_engine(uri)
        await initialize_database(engine)
        await engine.dispose()

    asyncio.run(initialize())
    stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, uri)
    asyncio.run(seed_database(uri, runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="1000,10000,100000", help="sizes of the catalogs")
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--plain", action="store_true", help="tiled as it comes, without this project's indexes")
    parser.add_argument("--uri", help="an empty PostgreSQL database: postgresql+asyncpg://user@host/name")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for runs in map(int, options.runs.split(",")):
        began = time.perf_counter()
        if options.uri:
            prepare_postgresql(options.uri, runs)
            context = served_from(options.uri, CACHE / "postgresql")
        else:
            root = seeded_directory(CACHE, runs)
            database = root / "server" / "catalog.db"
            context = served_from(f"sqlite:///{database}", root) if options.plain else served(root)
            results[f"{runs} runs, catalog.db"] = {"bytes": database.stat().st_size}
        print(f"{runs:>7}  seeded or found after {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
        with context as catalog:
            results[f"{runs} runs"] = measured(catalog, runs)
    emit({"history": results}, options.json)


if __name__ == "__main__":
    main()
