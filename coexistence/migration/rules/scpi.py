"""Old entries of SCPI instruments, on VISA resources, addresses or serial ports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from coexistence.migration.draft import Draft, NeedsAHand, Source, as_id, shown
from coexistence.migration.rules.common import flow_control, serial_wire, terminators, time_limits

_USUAL_RATE = 9600
_FUNCTIONS = {
    "volt": "VOLT", "voltage": "VOLT", "voltagedc": "VOLT", "voltdc": "VOLT", "dcv": "VOLT", "voltac": "VOLT:AC",
    "voltageac": "VOLT:AC", "acv": "VOLT:AC", "curr": "CURR", "current": "CURR", "currdc": "CURR", "currentdc": "CURR",
    "dci": "CURR", "currac": "CURR:AC", "currentac": "CURR:AC", "aci": "CURR:AC", "res": "RES", "resistance": "RES",
    "resistance2w": "RES", "fres": "FRES", "resistance4w": "FRES",
}  # fmt: skip


def convert(source: Source, draft: Draft) -> list[Draft]:
    """Convert an instrument with signals of its own."""
    _wire(source, draft)
    time_limits(source, draft, "reply_timeout")
    _common(source, draft)
    signals = _signals(source)
    if signals:
        draft.put("signals", signals, "queries" if "queries" in source.old.values else "")
        first = next(iter(signals))
        unknown = "; units are not known" * any("units" not in signal for signal in signals.values())
        source.remark(f"{first} is hinted (shown in tables and plots), the first of its signals{unknown}")
    else:
        source.remark("no signals are known: it connects and answers commands, and records nothing until it has some")
    return [draft]


def convert_meter(source: Source, draft: Draft) -> list[Draft]:
    """Convert a multimeter."""
    _wire(source, draft)
    time_limits(source, draft, "reply_timeout")
    _common(source, draft)
    name, value = source.take("function", "measurement", "measure", "mode", "measurement_type")
    if name:
        function = _FUNCTIONS.get(re.sub(r"[^a-z0-9]", "", str(value).lower()))
        if function is None:
            raise NeedsAHand(
                f"{name} = {source.shown(name)} is no function of a meter; give function = VOLT, VOLT:AC, CURR, "
                "CURR:AC, RES or FRES"
            )
        draft.put("function", function, name)
    else:
        source.remark('no function is stated, "VOLT" used: the reading is in V')
    return [draft]


def _common(source: Source, draft: Draft) -> None:
    terminators(source, ("\n", "\r\n"))
    name, value = source.take("setup", "init_commands", "initialization", "startup_commands")
    if isinstance(value, str):
        value = [value]
    if name and isinstance(value, list) and all(isinstance(command, str) for command in value):
        draft.put("setup", value, name)
    elif name:
        source.remark(f"{name} = {source.shown(name)} left out: it is no list of commands")
    name, value = source.take("expected_identity", "idn", "idn_contains", "identity")
    if name:
        draft.put("expected_identity", str(value), name)


def _wire(source: Source, draft: Draft) -> None:
    name, resource = source.take("resource", "resource_string", "resource_name", "visa_resource", "visa_address")
    if isinstance(resource, str) and resource.strip():
        draft.put("resource", resource.strip(), name)
        return
    name, number = source.take("gpib_address", "gpib")
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= 30:
        board = source.take("gpib_board", "board")[1]
        draft.put("resource", f"GPIB{board if isinstance(board, int) else 0}::{number}::INSTR", name)
        return
    name, host = source.take("host", "ip", "ip_address", "hostname", "address")
    if isinstance(host, str) and host.strip():
        _network(source, draft, name, host.strip())
        return
    serial_wire(source, draft)
    _line(source, draft)


def _network(source: Source, draft: Draft, name: str, host: str) -> None:
    if "::" in host or host.startswith("/dev/"):
        draft.put("resource" if "::" in host else "serial_port", host, name)
        return
    host, _, stated = host.partition(":")
    _, port = source.number("port", "tcp_port") if not stated else ("", float(stated) if stated.isdecimal() else None)
    if port is None:
        draft.put("resource", f"TCPIP0::{host}::INSTR", name)
        source.remark(
            f"no TCP port is stated: TCPIP0::{host}::INSTR asks for VXI-11; an instrument with a plain socket, mostly "
            f"5025, is TCPIP0::{host}::5025::SOCKET"
        )
    else:
        draft.put("resource", f"TCPIP0::{host}::{int(port)}::SOCKET", name)


def _line(source: Source, draft: Draft) -> None:
    name, rate = source.number("baud_rate", "baudrate", "baud")
    if rate is not None and rate != _USUAL_RATE:
        draft.put("baud_rate", int(rate), name)
    name, flow = flow_control(source)
    if flow not in (None, "none"):
        draft.put("flow_control", flow, name)
    for key, usual in (("data_bits", "8"), ("stop_bits", "1"), ("parity", "none")):
        name, value = source.take(key)
        if name and str(value).lower() != usual:
            draft.put(key, value, name)


def _signals(source: Source) -> dict[str, dict[str, Any]]:
    signals: dict[str, dict[str, Any]] = {}
    listed, queries = source.take("queries", "measurements", "signals")
    if isinstance(queries, Mapping):
        for name, query in queries.items():
            stated = query if isinstance(query, Mapping) else {"query": query}
            kept = {key: stated[key] for key in ("query", "write", "units") if isinstance(stated.get(key), str)}
            if "units" not in kept and isinstance(stated.get("unit"), str):
                kept["units"] = stated["unit"]
            if "query" in kept:
                signals[as_id(name)] = kept
            lost = [f"{key} = {shown(value)}" for key, value in stated.items() if value not in kept.values()]
            if lost:
                source.remark(f"{', '.join(lost)} of {listed}.{name} left out: a signal has query, write and units")
    else:
        source.put_back(listed)
    name, streamed = source.take("streaming_command", "query", "read_command", "measurement_command")
    if isinstance(streamed, str):
        signals.setdefault("reading", {"query": streamed})
    else:
        source.put_back(name)
    if signals:
        next(iter(signals.values()))["kind"] = "hinted"
    return signals
