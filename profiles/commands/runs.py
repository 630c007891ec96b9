"""The commands `tandem runs ...`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from profiles.commands.options import Json, PastRuns, finish
from profiles.data_directory import DEFAULT_DATA_DIRECTORY

RUN_HELP = "Scan number, beginning of a uid, or -1 for the latest."
Run = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)]
StreamName = Annotated[str, typer.Option("--stream", help="The stream.")]
# -1 is a run, no option.
NEGATIVE_RUNS = {"ignore_unknown_options": True}


class RunsGroup(TyperGroup):
    """Takes `tandem runs` for `tandem runs list`, and `tandem runs -1` for `tandem runs show -1`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front that is meant when none is given."""
        if not args or args[0] not in {*self.commands, "-h", "--help"}:
            named = bool(args) and (not args[0].startswith("-") or args[0][1:].isdigit())
            args = ["show" if named else "list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=RunsGroup,
    help="Find, see, plot, export and annotate past runs. Alone: list the latest; with a RUN: show it.",
)


@app.command("list")
def runs_list(
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    number: Annotated[int, typer.Option("--number", "-n", help="How many runs to list.", min=1)] = 20,
    plan: Annotated[Optional[str], typer.Option(help="Name of the plan.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="Name of a device the run names.")] = None,  # noqa: UP045
    detector: Annotated[Optional[str], typer.Option(help="Name of a detector.")] = None,  # noqa: UP045
    motor: Annotated[Optional[str], typer.Option(help="Name of what was moved.")] = None,  # noqa: UP045
    sample: Annotated[Optional[str], typer.Option(help="The sample.")] = None,  # noqa: UP045
    operator: Annotated[Optional[str], typer.Option(help="Who measured.")] = None,  # noqa: UP045
    proposal: Annotated[Optional[str], typer.Option(help="The proposal.")] = None,  # noqa: UP045
    status: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="How it ended: success, abort or fail."),
    ] = None,
    since: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Begun from then on: yesterday, '3 days', 2026-06, '2026-06-01 14:00'."),
    ] = None,
    until: Annotated[Optional[str], typer.Option(help="Begun until then, said in the same way.")] = None,  # noqa: UP045
    tag: Annotated[Optional[list[str]], typer.Option(help="A tag; may be given several times.")] = None,  # noqa: UP045
    note: Annotated[Optional[str], typer.Option(help="Text in its notes.")] = None,  # noqa: UP045
    text: Annotated[Optional[str], typer.Option(help="Words anywhere in the metadata.")] = None,  # noqa: UP045
    where: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="KEY=VALUE", help="Any entry: campaign=autumn, plan_args.num=5; several may be given."),
    ] = None,
    json: Json = False,
) -> None:
    """List the latest runs, newest first; all filters given must match.

    Exits with 1 when there are filters and no run matches.
    """
    from profiles.runs import list_runs

    if status not in (None, "success", "abort", "fail"):
        raise typer.BadParameter(f"{status!r} is no way to end: give success, abort or fail", param_hint="--status")
    filters: dict[str, Any] = {
        "plan": plan,
        "device": device,
        "detector": detector,
        "motor": motor,
        "sample": sample,
        "operator": operator,
        "proposal": proposal,
        "exit_status": status,
        "since": since,
        "until": until,
        "tags": tuple(tag or ()),
        "note": note,
        "text": text,
    }
    entries = dict(_entry(text, set(filters)) for text in where or ())
    finish(lambda: list_runs(data_dir, number, json_output=json, where=entries, **filters))


def _entry(text: str, filters: set[str]) -> tuple[str, Any]:
    """Return key and value of an entry of the start document."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{text!r} is no KEY=VALUE, as in campaign=autumn", param_hint="--where")
    if key in filters or key == "catalog":
        raise typer.BadParameter(f"{key!r} is asked for with an option of its own, see --help", param_hint="--where")
    return key, _value(value)


def _value(text: str) -> Any:
    """Return the number, truth value or null that a text is in JSON; else the text."""
    try:
        value = json_module.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict | list) else value


@app.command("show", context_settings=NEGATIVE_RUNS)
def runs_show(run: Run = "-1", data_dir: PastRuns = DEFAULT_DATA_DIRECTORY, json: Json = False) -> None:
    """Show a run: metadata, instruments, streams, results of the plan, troubles of wires, notes."""
    from profiles.runs import show_run

    finish(lambda: show_run(data_dir, run, json_output=json))


@app.command("plot", context_settings=NEGATIVE_RUNS)
def runs_plot(
    run: Run = "-1",
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    x: Annotated[Optional[str], typer.Option("--x", help="Column of the axis. Default: what was scanned.")] = None,  # noqa: UP045
    y: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--y", help="Column to plot; may be given several times. Default: what the devices recommend."),
    ] = None,
    stream: StreamName = "primary",
    frame: Annotated[int, typer.Option(help="Which image of a stack, from 0; -1 for the last.")] = -1,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Draw into this PNG, PDF or SVG file instead of the terminal."),
    ] = None,
) -> None:
    """Plot a run: lines, a map for a scan over a grid, or an image."""
    from profiles.runs_plot import plot_run

    finish(lambda: plot_run(data_dir, run, x=x, y=tuple(y or ()), stream=stream, frame=frame, output=output))


@app.command("export", context_settings=NEGATIVE_RUNS)
def runs_export(
    run: Run,
    output: Annotated[
        Path, typer.Argument(help="The file, which must not exist: .csv, .parquet, .h5, .nxs or .jsonl.")
    ],
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    stream: StreamName = "primary",
    json: Json = False,
) -> None:
    """Write a run into a file: CSV or Parquet (one stream), HDF5/NeXus, JSON lines (its exact documents)."""
    from profiles.runs_export import export

    finish(lambda: export(data_dir, run, output, stream=stream, json_output=json))


@app.command("compare", context_settings=NEGATIVE_RUNS)
def runs_compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    second: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)],
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    stream: StreamName = "primary",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Draw both runs into this PNG, PDF or SVG file."),
    ] = None,
    json: Json = False,
) -> None:
    """Tell in what two runs differ: metadata, settings, and what their columns amount to."""
    from profiles.runs_compare import compare_runs

    finish(lambda: compare_runs(data_dir, first, second, stream=stream, output=output, json_output=json))


@app.command("note", context_settings=NEGATIVE_RUNS)
def runs_note(
    run: Run,
    text: Annotated[str, typer.Argument(help="What to remark.")],
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    author: Annotated[str, typer.Option(help="Who says so. Default: your login name.")] = "",
) -> None:
    """Add a note to a run; its documents stay as they are."""
    from profiles.runs_annotate import add

    finish(lambda: add(data_dir, run, note=text, author=author))


@app.command("tag", context_settings=NEGATIVE_RUNS)
def runs_tag(
    run: Run,
    tags: Annotated[list[str], typer.Argument(help="Tags.")],
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    remove: Annotated[bool, typer.Option("--remove", help="Take the tags away.")] = False,
    author: Annotated[str, typer.Option(help="Who says so. Default: your login name.")] = "",
) -> None:
    """Add tags to a run, or take them away."""
    from profiles.runs_annotate import add

    if remove:
        finish(lambda: add(data_dir, run, untag=tags, author=author))
    finish(lambda: add(data_dir, run, tags=tags, author=author))


@app.command("watch", context_settings=NEGATIVE_RUNS)
def runs_watch(
    run: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="[UID]", help="Beginning of a uid. Default: the run that goes on, or else the next."),
    ] = None,
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    stream: StreamName = "primary",
    json: Json = False,
) -> None:
    """Follow a run that another terminal measures, until it ends.

    Needs no server. Exits with 0 when the run ended with success, else with 1.
    """
    from profiles.runs_watch import watch_run

    finish(lambda: watch_run(data_dir, run, stream=stream, json_output=json))


@app.command("script", context_settings=NEGATIVE_RUNS)
def runs_script(
    run: Run = "-1",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="New file for the script; else it is printed."),
    ] = None,
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
) -> None:
    """Write a Python script that repeats a run: its plan, arguments, wrappers, configuration and sample."""
    from profiles.run_script import write_script

    finish(lambda: write_script(data_dir, run, output))
