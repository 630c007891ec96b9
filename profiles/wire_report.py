"""Who holds and waits for which wire, since when, and what the wires did so far: as data and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from profiles.console import say, say_table

if TYPE_CHECKING:
    from coexistence import SharedResources


def wires_as_json(resources: SharedResources) -> list[dict[str, Any]]:
    """Return for each open wire its use now and its figures so far; times in s."""
    figures = {wire.name: wire.statistics for wire in resources.wires}
    found = []
    for use in resources.held():
        statistics = figures.get(use.wire)
        if statistics is None:
            continue
        found.append(
            {
                "wire": use.wire,
                "connected": use.connected,
                "holder": use.holder,
                "held_for_s": use.held_for,
                "waiting": [
                    {"owner": each.owner, "rank": each.rank.name.lower(), "waited_s": each.waited}
                    for each in use.waiting
                ],
                "exchanges": statistics.exchanges,
                "timeouts": statistics.timeouts,
                "errors": statistics.errors,
                "reconnects": statistics.reconnects,
                "late_replies": statistics.late_replies,
                "owners": {name: _figures(owner) for name, owner in statistics.owners.items()},
            }
        )
    return found


def _figures(owner: Any) -> dict[str, Any]:
    return {
        "exchanges": owner.exchanges,
        "timeouts": owner.timeouts,
        "errors": owner.errors,
        "bytes_sent": owner.bytes_sent,
        "bytes_received": owner.bytes_received,
        "wait_p95_s": owner.wait.p95,
        "wait_max_s": owner.wait.max,
        "exchange_p50_s": owner.duration.p50,
        "exchange_p95_s": owner.duration.p95,
    }


def print_wires(wires: Sequence[dict[str, Any]], console: Console) -> None:
    """Print a table with a block for each wire: its state, who holds it, who waits, and the figures of each owner."""
    if not wires:
        say(console, "No wire is open.")
        return
    table = Table("wire", "now", "owner", "exchanges", "timeouts", "errors", "wait\np95", "exchange\np50 / p95")
    for number, wire in enumerate(wires):
        if number:
            table.add_section()
        owners = list(wire["owners"].items()) or [("", None)]
        for row, (name, figures) in enumerate(owners):
            table.add_row(*(_wire_cells(wire) if row == 0 else ("", "")), name, *_owner_cells(figures))
    say_table(console, table)


def _wire_cells(wire: dict[str, Any]) -> tuple[str, str]:
    state = "free" if wire["connected"] else "not connected"
    if wire["holder"] is not None:
        state = f"held by {wire['holder']} for {_seconds(wire['held_for_s'])}"
    lines = [state]
    for each in wire["waiting"]:
        rank = "" if each["rank"] == "normal" else f" ({each['rank']})"
        lines.append(f"{each['owner']}{rank} waits since {_seconds(each['waited_s'])}")
    if wire["reconnects"]:
        lines.append(f"reconnected {wire['reconnects']} times")
    if wire["late_replies"]:
        lines.append(f"{wire['late_replies']} late replies kept from others")
    return wire["wire"], "\n".join(lines)


def _owner_cells(figures: dict[str, Any] | None) -> tuple[str, ...]:
    if figures is None:
        return ("",) * 5
    exchange = f"{_seconds(figures['exchange_p50_s'])} / {_seconds(figures['exchange_p95_s'])}"
    return (
        str(figures["exchanges"]),
        str(figures["timeouts"]),
        str(figures["errors"]),
        _seconds(figures["wait_p95_s"]),
        exchange,
    )


def _seconds(value: float) -> str:
    return f"{value * 1e3:.1f} ms" if value < 1.0 else f"{value:.1f} s"
