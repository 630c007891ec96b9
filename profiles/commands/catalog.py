"""The commands `tandem catalog ...`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from profiles.commands.options import Json, PastRuns, finish
from profiles.data_directory import DEFAULT_DATA_DIRECTORY

app = typer.Typer(help="Look after the catalog of recorded runs.", no_args_is_help=True)

Runs = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--run", help="Beginning of a uid; may be given several times. Default: all runs."),
]


@app.command("status")
def catalog_status(data_dir: PastRuns = DEFAULT_DATA_DIRECTORY, json: Json = False) -> None:
    """Tell who serves the catalog, what waits for delivery and what cannot be delivered. Starts nothing.

    Exits with 1 when something needs attention.
    """
    from profiles.catalog_care import show_status

    finish(lambda: show_status(data_dir, json_output=json))


@app.command("verify")
def catalog_verify(
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    run: Runs = None,
    skip_files: Annotated[
        bool, typer.Option("--skip-files", help="Leave out files of cameras, which take long to read.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare the catalog with the journals, document by document, and files of cameras with their checksums.

    Names every difference, and exits with 1 when there is one.
    """
    from profiles.catalog_care import verify

    finish(lambda: verify(data_dir, run or [], files=not skip_files, json_output=json))


@app.command("replay")
def catalog_replay(
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    run: Runs = None,
    rewrite: Annotated[bool, typer.Option("--rewrite", help="Also write runs again that are there.")] = False,
    json: Json = False,
) -> None:
    """Deliver runs again from their journals: restores what the catalog lacks."""
    from profiles.catalog_care import replay

    finish(lambda: replay(data_dir, run or [], rewrite=rewrite, json_output=json))


@app.command("compact")
def catalog_compact(data_dir: PastRuns = DEFAULT_DATA_DIRECTORY, json: Json = False) -> None:
    """Give back space: leftovers of killed processes, arrays of deleted runs, room in the databases.

    Journals are never touched. Safe while sessions measure; databases wait until the server is stopped.
    """
    from profiles.catalog_care import compact_catalog

    finish(lambda: compact_catalog(data_dir, json_output=json))


@app.command("web")
def catalog_web(
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    with_key: Annotated[
        bool, typer.Option("--with-key", help="Print an address that lets the browser in, and whoever sees it.")
    ] = False,
    json: Json = False,
) -> None:
    """Start the server if need be and print the address of its web page."""
    from profiles.catalog_care import show_web

    finish(lambda: show_web(data_dir, with_key=with_key, json_output=json))


@app.command("profile")
def catalog_profile(
    name: Annotated[str, typer.Argument(help="What scripts are to call the catalog.")],
    data_dir: PastRuns = DEFAULT_DATA_DIRECTORY,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a profile of this name.")] = False,
    json: Json = False,
) -> None:
    """Write a tiled profile, by which databroker scripts find the catalog: Broker.named(NAME)."""
    from profiles.catalog_care import make_profile

    finish(lambda: make_profile(data_dir, name, replace=replace, json_output=json))


@app.command("stop")
def catalog_stop(data_dir: PastRuns = DEFAULT_DATA_DIRECTORY) -> None:
    """Stop a catalog's server that was kept, once everything is delivered."""
    from profiles.catalog_care import stop

    finish(lambda: stop(data_dir))
