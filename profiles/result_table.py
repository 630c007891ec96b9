"""What a plan found, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


def result_table(kind: str, rows: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> Table:
    """Return results as a table: a line for each quantity, with its error and units, a column for each row."""
    labels = [str(row.get("signal", number + 1)) for number, row in enumerate(rows)]
    table = Table(kind, *labels, box=None, pad_edge=False)
    for quantity in rows[0] if rows else ():
        if quantity == "signal" or (quantity.endswith("_error") and quantity.removesuffix("_error") in rows[0]):
            continue
        cells = [_with_error(row[quantity], row.get(f"{quantity}_error"), units.get(quantity, "")) for row in rows]
        table.add_row(quantity.replace("_", " "), *cells)
    return table


def _with_error(value: Any, error: Any, units: str) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text += f" ± {error:.2g}" if isinstance(error, float) else ""
    return f"{text} {units}".strip()
