"""What the rules of all instruments share: wires, line settings, time limits, and words that say nothing new."""

from __future__ import annotations

import re
from typing import Any

from coexistence.migration.draft import Draft, NeedsAHand, Source, plain, shown

_PORT_NAMES = ("port", "serial_port", "device", "device_path", "serial_device", "com_port", "tty", "path")
_RESOURCE = re.compile(r"^(ASRL|GPIB|TCPIP|USB|VXI|PXI)\d*(::|/|COM)", re.IGNORECASE)
_INFORMATION = (
    "name", "description", "label", "location", "note", "notes", "comment", "model", "manufacturer", "vendor",
    "serial_number", "device_serial", "firmware", "firmware_version", "raw_response", "manufacturing_date", "status",
    "port_type", "bus_type", "address_range", "hwid_vendor", "hwid_model", "last_verified", "role", "tags",
)  # fmt: skip
_FLOW_CONTROLS = {
    "none": "none", "no": "none", "off": "none", "false": "none", "": "none", "0": "none",
    "hardware": "rtscts", "hw": "rtscts", "rtscts": "rtscts", "crtscts": "rtscts", "rts": "rtscts",
    "software": "xonxoff", "sw": "xonxoff", "xonxoff": "xonxoff", "xon": "xonxoff",
    "dsrdtr": "dsrdtr", "dtrdsr": "dsrdtr",
}  # fmt: skip
_FLOW_SWITCHES = {
    "rtscts": "rtscts", "rts_cts": "rtscts", "hardware_flow_control": "rtscts", "xonxoff": "xonxoff",
    "software_flow_control": "xonxoff", "dsrdtr": "dsrdtr",
}  # fmt: skip
_FLOW_WORDS = ("flow_control", "flowcontrol", "handshake", "flow")
FLOW_NAMES = (*_FLOW_WORDS, *_FLOW_SWITCHES)
"""Old settings that state the flow control."""
_EIGHT_N_ONE = {
    "data_bits": ({"8", "eight"}, "8 data bits"),
    "bytesize": ({"8", "eight"}, "8 data bits"),
    "stop_bits": ({"1", "1.0", "one"}, "1 stop bit"),
    "stopbits": ({"1", "1.0", "one"}, "1 stop bit"),
    "parity": ({"none", "n", "no", "false", ""}, "no parity"),
}
_PACE = ("command_delay_ms", "inter_byte_timeout_ms", "write_delay_ms", "read_delay_ms", "inter_command_delay_ms")
_POLLING = (
    "polling_rate_hz", "poll_rate_hz", "polling_interval_ms", "poll_interval_ms", "update_rate_hz", "sample_rate_hz",
    "streaming_rate_hz", "enable_streaming", "auto_poll",
)  # fmt: skip
_RETRIES = ("retries", "max_retries", "retry_count", "retry_delay_ms", "auto_reconnect", "reconnect_delay_ms")

SHORTEST_TIMEOUT_S = 0.5
"""A time limit below this was meant for a reply alone; now it includes waiting in line on a shared wire."""

LONGEST_CREDIBLE_S = 50
"""A bare `timeout` up to this was written in seconds by mistake: nothing answers within 50 ms at 9600 baud."""


def serial_wire(source: Source, draft: Draft) -> None:
    """Take the port; an instrument without one needs a hand."""
    name, port = source.take(*_PORT_NAMES)
    if not isinstance(port, str) or not port.strip():
        resource_name, resource = source.take("resource", "resource_string", "visa_resource", "visa_address")
        if isinstance(resource, str) and _RESOURCE.match(resource):
            draft.put("resource", resource, resource_name)
            return
        shown_port = f"{name} = {source.shown(name)} is no port" if name else "it names no port"
        raise NeedsAHand(f'{shown_port}; give serial_port = "/dev/..."')
    port = port.strip()
    draft.put("resource" if _RESOURCE.match(port) else "serial_port", port, name)
    _identity_of_adapter(source, port)


def _identity_of_adapter(source: Source, port: str) -> None:
    vendor_name, vendor = source.take("hwid_vid", "usb_vid", "vid")
    product_name, product = source.take("hwid_pid", "usb_pid", "pid")
    serial_name, serial = source.take("hwid_serial", "usb_serial")
    parts = [
        f"{part:04x}" if type(part) is int else str(part).lower().removeprefix("0x").zfill(4)
        for part in (vendor, product)
    ]
    if not all(re.fullmatch(r"[0-9a-f]{4}", part) for part in parts):
        source.put_back(vendor_name, product_name, serial_name)
    else:
        identity = ":".join(["usb", *parts, *([str(serial)] if serial else [])])
        source.remark(
            f"{port} is kept, although the adapter is known by its identity: serial_port = {shown(identity)} finds it "
            "under whatever path it gets"
        )


def line(source: Source, draft: Draft, instrument: str, rates: tuple[int, ...], flow_controls: tuple[str, ...]) -> None:
    """Take the settings of a serial line; what is known to be wrong is named and left out.

    Parameters
    ----------
    source, draft
        Where from, and where to.
    instrument
        What to call it.
    rates
        Baud rates it can have, the usual one first.
    flow_controls
        Flow controls it can have, the usual one first.
    """
    name, rate = source.number("baud_rate", "baudrate", "baud")
    if rate is not None:
        if rate in rates:
            draft.put("baud_rate", int(rate), name)
        else:
            possible = " or ".join(map(str, rates))
            stated = f"{name} = {source.shown(name)}"
            source.remark(f"{stated} is wrong: {instrument} speaks {possible} baud; {rates[0]} used")
    name, flow = flow_control(source)
    if flow is not None:
        if flow in flow_controls:
            draft.put("flow_control", flow, name)
        else:
            source.remark(
                f"{name} = {source.shown(name)} is wrong: {instrument} has "
                f"{_flow_text(flow_controls)}; {flow_controls[0]!r} used"
            )
    for key, (usual, text) in _EIGHT_N_ONE.items():
        name, value = source.take(key)
        if name and str(value).lower() not in usual:
            source.remark(f"{key} = {source.shown(key)} is wrong: {instrument} has {text}; left out")


def flow_control(source: Source) -> tuple[str, str | None]:
    """Take the flow control, however it is named; a word that says nothing is remarked."""
    name, value = source.take(*_FLOW_WORDS)
    if name:
        word = re.sub(r"[^a-z0-9]", "", str(value).lower())
        if word in _FLOW_CONTROLS:
            return name, _FLOW_CONTROLS[word]
        source.remark(f"{name} = {source.shown(name)} left out: it is none of none, rtscts, xonxoff, dsrdtr")
        return name, None
    found: tuple[str, str | None] = ("", None)
    for switch, meaning in _FLOW_SWITCHES.items():
        name, value = source.take(switch)
        if name and (value is True or not found[0]):
            found = (name, meaning if value is True else "none")
    return found


def _flow_text(flow_controls: tuple[str, ...]) -> str:
    return "no flow control" if flow_controls == ("none",) else f"flow control {' or '.join(flow_controls)}"


def time_limits(source: Source, draft: Draft, key: str = "timeout") -> None:
    """Take the time limits, which old files have in ms, and give them in s.

    `key` is what the limit of a reply is called in the new form.
    """
    for names, new_key in (
        (("timeout_ms", "read_timeout_ms", "response_timeout_ms", "timeout"), key),
        (("connect_timeout_ms", "connection_timeout_ms", "connect_timeout"), "connect_timeout"),
    ):
        name, value = source.number(*names)
        if value is None:
            continue
        seconds = _seconds(source, name, value)
        if seconds <= 0:
            source.remark(f"{name} = {source.shown(name)} left out: nothing waits for ever, and no time is no limit")
        elif seconds < SHORTEST_TIMEOUT_S:
            source.remark(
                f"{name} = {source.shown(name)} left out: the limit now includes waiting in line on a shared wire; "
                "the default is used"
            )
        elif seconds > 3600:
            source.remark(f"{name} = {source.shown(name)} left out: {seconds:g} s is longer than anything answers")
        else:
            draft.put(new_key, plain(round(seconds, 6)), name)
    for name in ("write_timeout_ms", "write_timeout"):
        if source.take(name)[0]:
            source.remark(f"{name} left out: one limit covers waiting in line, writing and reading")


def _seconds(source: Source, name: str, value: float) -> float:
    if name.endswith("_ms") or value >= LONGEST_CREDIBLE_S:
        if not name.endswith("_ms"):
            source.remark(f"{name} = {source.shown(name)} read as ms, as all time limits of old files")
        return value / 1000
    source.remark(f"{name} = {source.shown(name)} read as s: nothing answers within {value:g} ms")
    return value


def rounded(source: Source, draft: Draft, key: str, taken_from: str, value: float, why: str) -> None:
    """Give a setting that has to be a whole number; `why` is remarked when the old one was none."""
    draft.put(key, round(value), taken_from)
    if not float(value).is_integer():
        source.remark(f"{taken_from} = {source.shown(taken_from)} rounded to {round(value)} {why}")


def enabled(source: Source, draft: Draft) -> None:
    """Take whether the instrument is in use."""
    for name, when_true in (("enabled", True), ("disabled", False), ("auto_connect", True)):
        taken, value = source.take(name)
        if not taken:
            continue
        is_true = truth(value)
        if is_true is None:
            source.remark(f"{name} = {source.shown(name)} left out: neither true nor false; the instrument is used")
        elif is_true is not when_true:
            draft.put("enabled", False, name)
        elif name == "enabled":
            draft.put("enabled", True, name)


def truth(value: Any) -> bool | None:
    """Return whether a value means yes; None when it means neither yes nor no."""
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(str(value).lower())


def terminators(source: Source, expected: tuple[str, ...]) -> None:
    """Take the terminators, which the drivers know; others than theirs are named."""
    for name in ("terminator", "terminator_tx", "terminator_rx", "line_ending", "eol", "write_termination",
                 "read_termination", "tx_terminator", "rx_terminator"):  # fmt: skip
        taken, value = source.take(name)
        word = {"cr": "\r", "lf": "\n", "crlf": "\r\n", "none": ""}.get(str(value).lower(), value)
        if taken and word not in expected:
            source.remark(f"{name} = {source.shown(name)} left out: the driver sends and expects what the manual says")


def set_with(source: Source, names: tuple[str, ...], how: str) -> None:
    """Take what was sent when connecting and is now set by the user or a plan; say how.

    `how` has `{value}` for the old value.
    """
    name, value = source.take(*names)
    if name:
        command = how.format(value=value)
        source.remark(f"{name} = {source.shown(name)} is not sent when connecting any more; set it with {command}")


def says_nothing_new(name: str) -> bool:
    """Tell whether a setting only describes an instrument."""
    return name in _INFORMATION


def the_rest(source: Source) -> None:
    """Say what of the remaining settings has no meaning any more; `written` keeps all of them as comments."""
    for names, reason in (
        (_POLLING, "readings are taken when a plan, or somebody who watches, asks for them"),
        (_PACE, "the wire waits for the reply itself"),
        (_RETRIES, "lost replies and unplugged adapters are seen to by the wire"),
    ):
        given = [name for name in names if name in source.left]
        if given:
            source.remark(f"{', '.join(given)} kept as a comment: {reason}")
    known = {*_INFORMATION, *_POLLING, *_PACE, *_RETRIES}
    unknown = [name for name in source.left if name not in known]
    if unknown:
        source.remark(f"{', '.join(unknown)} kept as a comment: the new form has no such setting")
