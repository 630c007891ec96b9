"""How a session is, instrument by instrument, as a table; the data is that of `Health.as_json`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from profiles.console import say, say_table

_MIB = 2**20


def print_health(health: dict[str, Any], console: Console) -> None:
    """Print each instrument with what it says, what the process uses, and what the user should know."""
    table = Table("instrument", "generation", "state", "answered in", "says")
    for name, each in health["instruments"].items():
        latency = "" if each["latency_s"] is None else f"{each['latency_s'] * 1e3:.0f} ms"
        restarts = f" ({each['restarts']} restarts)" if each["restarts"] else ""
        state = each["state"] if each["healthy"] or each["state"] != "running" else "running, not healthy"
        says = each["detail"] if each["healthy"] else "see below"
        table.add_row(name, each["generation"], state + restarts, latency, says)
    say_table(console, table)
    # In the table a long reason would make each line longer than the terminal is wide.
    for name, each in health["instruments"].items():
        if not each["healthy"]:
            say(console, each["detail"] if each["detail"].startswith(f"{name} ") else f"{name}: {each['detail']}")
    process = health["process"]
    say(
        console,
        f"session {health['state']}, up {_duration(process['uptime_s'])}; {process['cpu_percent']:.0f} % of a core, "
        f"{process['memory_bytes'] / _MIB:.0f} MiB, {process['threads']} threads, {process['descriptors']} files",
    )
    for warning in health["warnings"]:
        say(console, f"warning: {warning}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
