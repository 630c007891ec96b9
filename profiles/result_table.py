"""What a plan found, as a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from plans.standard_errors import share_within

FEW_DEGREES_OF_FREEDOM = 3
"""With as few as these, 3 errors hold visibly less than the usual 99.7 %."""


def result_table(kind: str, rows: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> Table:
    """Return results as a table: a line for each quantity, with its error and units, a column for each row."""
    labels = [str(row.get("signal", number + 1)) for number, row in enumerate(rows)]
    table = Table(kind, *labels, box=None, pad_edge=False)
    for quantity in rows[0] if rows else ():
        if quantity == "signal" or (quantity.endswith("_error") and quantity.removesuffix("_error") in rows[0]):
            continue
        cells = [_cell(row, quantity, units.get(quantity, "")) for row in rows]
        table.add_row(quantity.replace("_", " "), *cells)
    return table


def _cell(row: Mapping[str, Any], quantity: str, units: str) -> str:
    value = row[quantity]
    if quantity == "degrees_of_freedom" and isinstance(value, int) and 0 < value <= FEW_DEGREES_OF_FREEDOM:
        return f"{value} (few: {share_within(3, value):.0%} within 3 errors)"
    return _with_error(value, row.get(f"{quantity}_error"), units)


def _with_error(value: Any, error: Any, units: str) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(error, float):
        text += f" ± {error:.2g}" if math.isfinite(error) else " ± ?"
    return f"{text} {units}".strip()
