"""`tandem run`: a plan of the catalogue, or a script with a session's names as its globals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from traceback import print_exception
from types import TracebackType
from typing import Any

from bluesky.utils import FailedStatus
from rich.console import Console
from rich.table import Table

from plans.catalogue import CATALOGUE, CataloguedPlan
from plans.checks import PlanError
from plans.results import RESULT_PREFIX, RunEvents
from profiles.configuration import load_configuration
from profiles.console import json_text, say, say_table
from profiles.device_names import UnknownDevice, find_devices, meant_ids, split_name
from profiles.malus_report import MalusReport, read_report
from profiles.plan_arguments import PlanArgument, arguments_of
from profiles.prompt_names import prompt_names
from profiles.result_table import result_table
from profiles.scan_display import shown_scan
from profiles.session import Session


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line says beside the plan's own arguments."""

    config: Sequence[str]
    """TOML files or profiles, later ones over earlier ones."""
    simulate: bool = False
    data_dir: Path | None = None
    json_output: bool = False
    dry_run: bool = False
    picture: Path | None = None
    """PNG file: of the path in a dry run, of the readings otherwise."""
    shutter: str | None = None
    watch_power: str | None = None
    min_power: float | None = None
    max_power: float | None = None
    keep: Sequence[tuple[str, float, float]] = ()
    """Movers with the lowest and highest position at which the shutter may be open."""
    dark: int = 0
    normalise: tuple[str, str] | None = None
    repeat: int = 1
    repeat_delay: float = 0.0


def run_script(
    script: Path, arguments: Sequence[str], *, config: Sequence[str], simulate: bool, data_dir: Path | None
) -> int:
    """Open a session and run a script in it; return the exit code.

    The script has the names of the prompt as globals: `session`, `RE`, `devices`, `bp`, plans, and each connected
    device by its id. Its arguments are in `sys.argv`, and modules beside it can be imported. What it raises is shown
    from its own lines on.
    """
    if not script.is_file():
        print(f"tandem: there is no script {script}", file=sys.stderr)
        return 1
    with Session.open(config, simulate=simulate, data_dir=data_dir) as session:
        session.exit_on_sigterm()
        print_failures(session, Console(stderr=True))
        sys.argv = [str(script), *arguments]
        sys.path.insert(0, str(script.resolve().parent))
        try:
            runpy.run_path(str(script), init_globals=prompt_names(session), run_name="__main__")
        except Exception as error:
            print_exception(error.with_traceback(_from_file(str(script), error.__traceback__)))
            return 1
    return 0


def _from_file(path: str, trace: TracebackType | None) -> TracebackType | None:
    """Return what of a traceback begins in a file; all of it when nothing does."""
    part = trace
    while part is not None and part.tb_frame.f_code.co_filename != path:
        part = part.tb_next
    return part or trace


def list_plans(*, json_output: bool) -> int:
    """Print the plans that can be run by name; return the exit code."""
    if json_output:
        listed = [
            {
                "name": plan.name,
                "summary": plan.summary,
                "options": [
                    {"option": f"--{argument.option}", "kind": argument.kind, "required": argument.required}
                    for argument in arguments_of(plan.function, plan.options)
                ],
            }
            for plan in CATALOGUE.values()
        ]
        print(json.dumps(listed))
        return 0
    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for plan in CATALOGUE.values():
        table.add_row(plan.name, plan.summary)
    console.print(table)
    say(console, "\nAll options of one: tandem run PLAN --help")
    return 0


def run_plan(plan: CataloguedPlan, given: Mapping[str, Any], options: RunOptions) -> int:
    """Run a plan of the catalogue and print what it found; return the exit code.

    Parameters
    ----------
    plan
        Which plan.
    given
        Its arguments as the command line has them.
    options
        What the command line says beside.
    """
    arguments = {argument.name: argument for argument in arguments_of(plan.function, plan.options)}
    ids = [instrument.id for _, instrument in load_configuration(*options.config).instruments()]
    given = completed(plan, given, options, ids)
    for name, texts in given.items():
        _check_ids(arguments[name], texts, ids)
    console = Console(stderr=options.json_output)
    with Session.open(options.config, simulate=options.simulate, data_dir=options.data_dir) as session:
        session.exit_on_sigterm()
        print_failures(session, console)
        find = partial(find_devices, session.devices, failures=session.failures)
        values = {name: arguments[name].value(texts, find) for name, texts in given.items()}
        make_plan = partial(_wrapped, plan, values, find, options)
        if options.dry_run:
            return _rehearse(session, plan, make_plan, options, console)
        return _measure(session, plan, make_plan, options, console)


def completed(
    plan: CataloguedPlan, given: Mapping[str, Any], options: RunOptions, ids: Sequence[str]
) -> dict[str, Any]:
    """Return the arguments of a plan with those that need not be given.

    These are the usual devices, and for a plan that closes a shutter for its dark frames the one of the options.
    """
    closes = any(argument.name == "shutter" for argument in arguments_of(plan.function, plan.options))
    shutter = {"shutter": options.shutter} if closes and options.shutter is not None else {}
    return {**_usual_devices(plan, ids), **shutter, **given}


def _usual_devices(plan: CataloguedPlan, ids: Sequence[str]) -> dict[str, Any]:
    """Return what stands for devices that are not named, if the bench has it."""
    lists = {argument.name for argument in arguments_of(plan.function, plan.options) if argument.is_list}
    return {
        argument: [name] if argument in lists else name for argument, name in plan.usual.items() if meant_ids(name, ids)
    }


def _check_ids(argument: PlanArgument, texts: Any, ids: Sequence[str]) -> None:
    """Refuse names of devices that no configured instrument can have, before anything is connected."""
    if argument.kind not in ("device", "devices"):
        return
    for text in texts if argument.is_list else [texts]:
        for name in text.split(","):
            first = split_name(name)[0] if split_name(name) else name
            if not meant_ids(first, ids) and not any(name.startswith(f"{device_id}_") for device_id in ids):
                raise UnknownDevice(name, ids)


def _wrapped(
    plan: CataloguedPlan, values: Mapping[str, Any], find: Callable[[str], list[Any]], options: RunOptions
) -> Any:
    """Make the plan with what the options put around it."""
    from plans import laser_safe, normalised, repeat, with_dark

    def once() -> Any:
        messages = plan.function(**values)
        if options.normalise:
            messages = normalised(messages, *options.normalise)
        if options.shutter is None:
            return messages
        shutter = find(options.shutter)[-1]
        if options.dark:
            named = [values[name] for name in ("camera", "meter") if name in values]
            detectors = [*named, *values.get("detectors", ())]
            messages = with_dark(messages, shutter, detectors, num=options.dark)
        return laser_safe(
            messages,
            shutter,
            power=find(options.watch_power)[-1] if options.watch_power else None,
            min_power=options.min_power,
            max_power=options.max_power,
            positions=[(find(name)[-1], low, high) for name, low, high in options.keep],
        )

    return once() if options.repeat == 1 else repeat(once, options.repeat, delay=options.repeat_delay)


def _rehearse(
    session: Session, plan: CataloguedPlan, make_plan: Callable[[], Any], options: RunOptions, console: Console
) -> int:
    from plans.dry_run import dry_run
    from profiles.dry_run_report import as_json, draw_path, summary_lines
    from profiles.past_durations import past_points

    def ask(question: Callable[[], Any]) -> Any:
        async def awaited() -> Any:
            return await question()

        return asyncio.run_coroutine_threadsafe(awaited(), session.RE.loop).result()

    try:
        found = dry_run(make_plan(), ask)
    except PlanError as error:
        return _tell(error, options)
    past = past_points(session.data_dir, plan.name, set(found.devices))
    if options.picture is not None:
        draw_path(plan.name, found, options.picture)
    if options.json_output:
        print(json_text(as_json(plan.name, found, past)))
    else:
        say(console, "\n".join(summary_lines(plan.name, found, past)))
    return 1 if found.problems else 0


def _measure(
    session: Session, plan: CataloguedPlan, make_plan: Callable[[], Any], options: RunOptions, console: Console
) -> int:
    from profiles.live_plot import live_picture

    runs: list[dict[str, Any]] = []
    events = RunEvents()

    def note(name: str, document: dict[str, Any]) -> None:
        events(name, document)
        if name == "stop":
            runs.append(summary_of(events, document))

    picture = live_picture(session.RE, options.picture) if options.picture else contextlib.nullcontext()
    token = session.RE.subscribe(note)
    try:
        with shown_scan(session.RE, console, label=plan.name), picture:
            session.RE(make_plan())
    except KeyboardInterrupt:
        say(console, "Stopped. The run is closed as aborted; the catalog gets what was measured.")
        _print_runs(runs, options, console)
        raise
    except (PlanError, FailedStatus) as error:
        _print_runs(runs, options, console)
        return _tell(error, options)
    finally:
        session.RE.unsubscribe(token)
    _print_runs(runs, options, console)
    return 0


def _tell(error: BaseException, options: RunOptions) -> int:
    cause = error.__cause__ if isinstance(error, FailedStatus) and error.__cause__ is not None else error
    print(f"tandem: {cause}", file=sys.stderr)
    if options.json_output:
        print(json.dumps({"error": type(cause).__name__, "message": str(cause)}))
    return 1


def summary_of(events: RunEvents, stop: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON output says of a run: identity, how it ended, and its results by kind, as rows."""
    start = events.start
    streams = list(events.data_keys)
    return {
        "plan": start.get("plan_name"),
        "run_uid": start["uid"],
        "scan_id": start.get("scan_id"),
        "exit_status": stop["exit_status"],
        "reason": stop.get("reason", ""),
        "points": events.count(),
        "streams": {stream: events.count(stream) for stream in streams},
        "results": {
            stream.removeprefix(RESULT_PREFIX): [_finite(event["data"]) for event in events.events(stream)]
            for stream in streams
            if stream.startswith(RESULT_PREFIX)
        },
        "units": {
            stream.removeprefix(RESULT_PREFIX): {
                name: key["units"] for name, key in events.data_keys[stream].items() if key.get("units")
            }
            for stream in streams
            if stream.startswith(RESULT_PREFIX)
        },
        "scan_duration_s": round(stop["time"] - start["time"], 3),
    }


def _print_runs(runs: Sequence[Mapping[str, Any]], options: RunOptions, console: Console) -> None:
    if options.json_output:
        for run in runs:
            print(json_text(run))
        return
    for run in runs:
        reason = f": {run['reason']}" if run["reason"] else ""
        say(
            console,
            f"run       {run['run_uid']} (scan {run['scan_id']}, {run['points']} points, "
            f"{run['scan_duration_s']:.1f} s, {run['exit_status']}{reason})",
        )
        for kind, rows in run["results"].items():
            if kind != "allan":
                say_table(console, result_table(kind, rows, run["units"].get(kind, {})))
    if options.picture is not None and runs:
        say(console, f"picture   {options.picture}")


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them: what is no number is null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def scan_malus(
    session: Session,
    meters: Sequence[str],
    rotator: str,
    console: Console,
    start: float = 0.0,
    stop: float = 180.0,
    num: int = 37,
) -> MalusReport:
    """Scan with table and progress bar, then ask the catalog for the run and fit it."""
    from plans import malus

    plan = malus([session.devices[meter] for meter in meters], session.devices[rotator], start, stop, num)
    uids: list[str] = []
    with shown_scan(session.RE, console, [rotator, *(f"{meter}_power" for meter in meters)], label="malus"):
        session.RE(plan, {"start": lambda _, start: uids.append(start["uid"])})
    with console.status("Asking the catalog for the run; its server starts meanwhile ..."):
        return read_report(session.catalog[uids[0]], meters, rotator)


def print_failures(session: Session, console: Console) -> None:
    """Tell which instruments did not connect, and why."""
    for failure in session.failures.values():
        say(console, f"not connected: {failure}")


def print_report(report: MalusReport, console: Console) -> None:
    """Print what the catalog says about a polarizer scan."""
    lines = [f"run               {report.uid} (scan {report.scan_id}, {report.points} points)"]
    for meter, fit in report.fits.items():
        error = f" ± {fit.angle_error_deg:.2f}" if fit.angle_error_deg == fit.angle_error_deg else ""
        lines.append(
            f"{meter:<17} largest power at {fit.angle_deg:.2f}{error} deg, amplitude {fit.amplitude_w * 1e3:.4f} mW, "
            f"contrast {fit.contrast:.0f}, r² {fit.r_squared:.5f}"
        )
    if len(report.fits) > 1:
        lines.append(f"meters differ by  {report.max_difference_w * 1e6:.3g} µW at the most")
    lines.append(f"scan took         {report.duration_s:.1f} s")
    say(console, "\n".join(lines))
