"""A finished run as a Python script that repeats it: plan, arguments, wrappers, configuration and sample."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bluesky.plans as bp

from catalog import original_documents
from catalog.errors import CatalogError, UnknownRun
from plans.catalogue import CATALOGUE
from plans.checks import plain_argument
from profiles.plan_arguments import PlanArgument, arguments_of

PROFILES = Path(__file__).parent
LONGEST_LINE = 110
_SAID = ("note", "sample")
_SPECIAL_HOOKS = ("per_step", "per_shot")


class NotRepeatable(CatalogError):
    """A run does not say enough of its plan to be repeated by a script."""

    def __init__(self, uid: str, plan: str, reason: str) -> None:
        self.uid = uid
        self.plan = plan
        self.reason = reason
        super().__init__(f"run {uid[:8]} ({plan or 'no plan name'}) cannot be repeated by a script: {reason}")


def write_script(data_dir: Path, which: str, output: Path | None) -> int:
    """Write the script that repeats a run into a new file, or print it; return the exit code.

    Parameters
    ----------
    data_dir
        Where runs are kept; None for the default.
    which
        Scan number, beginning of a uid, or -1 for the latest.
    output
        The file; None prints.

    Raises
    ------
    NotRepeatable
        The run does not say enough.
    UnknownRun
        No run, or more than one, is meant.
    FileExistsError
        The file is there already.
    """
    script = script_of(find_documents(data_dir, which))
    if output is None:
        print(script, end="")
        return 0
    with output.open("x", encoding="utf-8") as file:
        file.write(script)
    print(f"{output} repeats the run: python {output}")
    return 0


def find_documents(data_dir: Path, which: str) -> list[tuple[str, Any]]:
    """Return the documents of a run; a uid is found without the catalog's server.

    Raises
    ------
    UnknownRun
        No run, or more than one, is meant.
    """
    if not re.fullmatch(r"-?\d+", which):
        try:
            return original_documents(data_dir, which)
        except UnknownRun:
            pass
    from profiles.runs import find_run, open_runs

    run = find_run(open_runs(data_dir), which)
    return original_documents(data_dir, run.metadata["start"]["uid"])


def script_of(documents: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return a script that opens a session with the run's configuration and runs its plan again.

    Plans of the project are called by their arguments, with the wrappers the run had; those of bluesky by what they
    noted in `plan_args`. Devices are found by their names.

    Raises
    ------
    NotRepeatable
        It is neither, or was given functions of its own.
    """
    start = next(document for name, document in documents if name == "start")
    settings = _settings(documents)
    call, modules = _call(start)
    wrapped = [_wrapper_call(start, wrapper) for wrapper in reversed(start.get("wrappers", ()))]
    names = sorted({*modules.get("plans", ()), *(wrapper["wrapper"] for wrapper in start.get("wrappers", ()))})
    imports = [f"from plans import {', '.join(names)}"] if names else []
    imports += ["import bluesky.plans as bp"] if "bluesky" in modules else []
    configuration, simulated = _configuration(start), _was_simulated(start)
    uid, fingerprint = start["uid"], start.get("configuration", {}).get("fingerprint")
    lines = [
        f'"""Repeats scan {start.get("scan_id", "?")} ({start.get("plan_name", "")}), run {uid}."""',
        "",
        *sorted(imports, key=lambda line: line.startswith("from")),
        "from profiles.configuration import load_configuration",
        "from profiles.device_names import find_device",
        "from profiles.session import Session",
        "",
        *_settings_lines(settings),
        f"config = load_configuration({', '.join(map(repr, configuration))})",
    ]
    if fingerprint:
        lines += [
            f"if config.fingerprint != {fingerprint!r}:",
            '    print("The configuration is no longer that of the run.")',
        ]
    lines += [
        "",
        f"with Session.open(config, simulate={simulated}) as session:",
        "",
        "    def device(name):",
        "        return find_device(session.devices, name, session.failures)",
        "",
        *map(_written, [call, *wrapped]),
        f"    result = session.RE(plan, repeats={uid!r})",
        "",
        "print(result.run_start_uids[0], result.exit_status)",
        "",
    ]
    return "\n".join(lines)


def _call(start: Mapping[str, Any]) -> tuple[tuple[str, list[str]], dict[str, list[str]]]:
    """Return the call that makes the plan, and what it needs imported."""
    name, arguments = start.get("plan_name", ""), start.get("plan_args")
    if not isinstance(arguments, Mapping):
        raise NotRepeatable(start["uid"], name, "it has no plan_args")
    said = {key: start[key] for key in _SAID if isinstance(start.get(key), str | int | float | Mapping)}
    if name in CATALOGUE and _is_ours(name, arguments):
        return _our_call(name, arguments, said), {"plans": [name]}
    if callable(getattr(bp, name, None)):
        return _bluesky_call(start, name, arguments, said), {"bluesky": [name]}
    raise NotRepeatable(start["uid"], name, "it is neither a plan of the project nor one of bluesky.plans")


def _is_ours(name: str, arguments: Mapping[str, Any]) -> bool:
    """Tell our `scan` from bluesky's, which notes other arguments."""
    plan = CATALOGUE[name]
    parameters = inspect.signature(plan.function).parameters
    required = {argument.name for argument in arguments_of(plan.function) if argument.required}
    return set(arguments) <= set(parameters) and required <= set(arguments)


def _our_call(name: str, noted: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[str, list[str]]:
    arguments = {argument.name: argument for argument in arguments_of(CATALOGUE[name].function)}
    texts = [
        f"{key}={_our_value(arguments.get(key), value)}"
        for key, value in noted.items()
        if value is not None and (key in arguments or value)
    ]
    takes = inspect.signature(CATALOGUE[name].function).parameters
    direct = {key: value for key, value in said.items() if key in takes}
    rest = {key: value for key, value in said.items() if key not in takes}
    texts += [f"{key}={value!r}" for key, value in direct.items()]
    if rest:
        texts.append(f"md={rest!r}")
    return name, texts


def _our_value(argument: PlanArgument | None, value: Any) -> str:
    if argument is None:
        return repr(value)
    if argument.kind == "device":
        return f"device({value!r})"
    if argument.kind == "devices":
        return f"[{', '.join(f'device({name!r})' for name in value)}]"
    if argument.kind == "rows":
        rows = [
            ", ".join(
                f"device({item!r})" if kind == "device" else repr(item)
                for kind, item in zip(argument.items, row, strict=False)
            )
            for row in value
        ]
        return f"[{', '.join(f'({row})' for row in rows)}]"
    return repr(value)


def _bluesky_call(
    start: Mapping[str, Any], name: str, noted: Mapping[str, Any], said: Mapping[str, Any]
) -> tuple[str, list[str]]:
    names = _DeviceNames(start)
    for hook in _SPECIAL_HOOKS:
        if noted.get(hook) not in (None, "None"):
            raise NotRepeatable(start["uid"], name, f"it was given a function of its own, {hook} = {noted[hook]}")
    takes = inspect.signature(getattr(bp, name)).parameters
    detectors = ", ".join(f"device({detector!r})" for detector in start.get("detectors", ()))
    texts = [f"[{detectors}]"] if "detectors" in noted else []
    texts += [names.text(item) for item in noted.get("args", ())]
    for key, value in noted.items():
        if key in ("detectors", "args", *_SPECIAL_HOOKS) or key not in takes:
            continue
        texts.append(f"{key}={names.text(value) if 'motor' in key or key == 'snake_axes' else repr(value)}")
    if said and "md" in takes:
        texts.append(f"md={dict(said)!r}")
    return f"bp.{name}", texts


class _DeviceNames:
    """Finds devices behind what bluesky's plans note of them: their `repr`, in the order of `motors`."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._start = start
        self._motors = list(start.get("motors", ()))
        self._known: dict[str, str] = {}

    def text(self, value: Any) -> str:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return f"[{', '.join(map(self.text, value))}]"
        if not isinstance(value, str):
            return repr(plain_argument(value))
        if value not in self._known:
            named = re.search(r"name='([^']+)'", value)
            remaining = [motor for motor in self._motors if motor not in self._known.values()]
            if value in self._motors:
                self._known[value] = value
            elif named and named.group(1) in self._motors:
                self._known[value] = named.group(1)
            elif remaining:
                self._known[value] = remaining[0]
            else:
                raise NotRepeatable(self._start["uid"], self._start.get("plan_name", ""), f"{value} is no known device")
        return f"device({self._known[value]!r})"


def _wrapper_call(start: Mapping[str, Any], wrapper: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the call that puts a wrapper around the plan, from what it noted in the run's `wrappers`."""
    name = wrapper.get("wrapper", "")
    given = {key: value for key, value in wrapper.items() if key not in ("wrapper", "shutter", "detectors")}
    if name == "laser_safe":
        positions = given.pop("positions", ())
        rows = ", ".join(f"(device({mover!r}), {low!r}, {high!r})" for mover, low, high in positions)
        texts = ["plan", f"device({wrapper['shutter']!r})"]
        texts += [f"power=device({given.pop('power')!r})"] if "power" in given else []
        texts += [f"positions=[{rows}]"] if rows else []
    elif name == "with_dark":
        detectors = ", ".join(f"device({detector!r})" for detector in wrapper["detectors"])
        texts = ["plan", f"device({wrapper['shutter']!r})", f"[{detectors}]"]
    elif name == "normalised":
        texts = ["plan"]
    else:
        raise NotRepeatable(start["uid"], start.get("plan_name", ""), f"its wrapper {name!r} is not known")
    return name, [*texts, *(f"{key}={value!r}" for key, value in given.items())]


def _configuration(start: Mapping[str, Any]) -> list[str]:
    """Return the files of the run's configuration; profiles of the project by their names."""
    noted = start.get("configuration") or {}
    found = []
    for file in noted.get("files", ()):
        path = Path(file)
        is_profile = path.parent.parent == PROFILES and path.name == "config.toml"
        found.append(path.parent.name if is_profile else str(path))
    if not found:
        raise NotRepeatable(start["uid"], start.get("plan_name", ""), "it names no configuration file")
    return found


def _was_simulated(start: Mapping[str, Any]) -> bool:
    return any(facts.get("simulated") for facts in start.get("instruments", {}).values())


def _settings(documents: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what the devices of the primary stream were set to."""
    found: dict[str, Any] = {}
    for name, document in documents:
        if name == "descriptor" and document["name"] == "primary":
            for device in document["configuration"].values():
                found |= device["data"]
    return found


def _settings_lines(settings: Mapping[str, Any]) -> list[str]:
    if not settings:
        return []
    lines = [f"#   {name} = {value!r}" for name, value in settings.items() if not isinstance(value, Sequence | Mapping)]
    lines += [f"#   {name} = {value!r}" for name, value in settings.items() if isinstance(value, str)]
    return ["# The devices were set to this, which the script leaves as it is:", *lines, ""]


def _written(call: tuple[str, list[str]]) -> str:
    """Return a call as it stands in the script, on several lines when it is long."""
    name, parts = call
    line = f"    plan = {name}({', '.join(parts)})"
    if len(line) <= LONGEST_LINE:
        return line
    return f"    plan = {name}(\n" + "".join(f"        {part},\n" for part in parts) + "    )"
