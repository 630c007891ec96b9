"""The commands `tandem catalog ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look after the catalog of recorded runs.", no_args_is_help=True)


@app.command("stop")
def catalog_stop(data_dir: Annotated[Path, typer.Argument(help="The data directory.")] = Path("tandem-data")) -> None:
    """Stop a catalog's server that was kept, once everything is delivered."""
    from catalog import shut_down

    stopped = shut_down(data_dir)
    typer.echo("The catalog has stopped." if stopped else "Other sessions use the catalog; it stays until they end.")
