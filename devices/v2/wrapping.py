"""Third-party drivers as devices in a few lines."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ophyd import Kind

from devices.v2.legacy import DriverSignal, Getter, LegacyDevice
from devices.v2.positioner import WrappedPositioner

_MISSING = object()

SignalDeclarations: TypeAlias = Sequence[str] | Mapping[str, Getter | DriverSignal]


def wrap(
    driver: Any,
    *,
    name: str,
    read: SignalDeclarations = (),
    config: SignalDeclarations = (),
    position: Getter | None = None,
    move: str | None = None,
    moving: str | Callable[[Any], bool] | None = None,
    stop: str | None = None,
    units: str = "",
    precision: int = 3,
    limits: tuple[float, float] | None = None,
    tolerance: float | None = None,
    **options: Any,
) -> LegacyDevice:
    """Return a device over any blocking driver object, its attributes and methods as signals.

    Nothing of the driver is changed: a script that uses it directly gets the same results before and after.

    Parameters
    ----------
    driver
        The driver object, as pymeasure, pylablib or a laboratory's own code makes it.
    name
        Name of the device; columns are called ``<name>_<signal>``.
    read
        Attributes or methods without arguments to measure for each event, by name, or as a mapping from the signal's
        name to the attribute, a function of the driver, or a :class:`DriverSignal`. The first one is hinted.
    config
        The same for settings, which are measured once for each run and can be set.
    position, move, moving, stop
        For drivers that move something: what gives the position; the method that moves or the attribute to set; what
        is true during a motion (None for a ``move`` that returns when the motion has ended); the method that stops.
    units, precision, limits, tolerance
        Of the position; ``tolerance`` is how far from its target a motion may end.
    options
        Passed on to the device: ``timeout_s``, ``labels``, ``poll_period_s``.

    Raises
    ------
    ValueError
        When a name is declared twice, ``position`` comes without ``move``, or the driver has nothing of a name.
    """
    signals = _declare(read, config, hint_first=position is None)
    if position is None and (move is not None or stop is not None or moving is not None):
        raise ValueError(f"{name}: move, moving and stop need position, the attribute that gives the position.")
    if position is not None and move is None:
        raise ValueError(f"{name}: position needs move, the method or attribute that takes a target.")
    getters = [signal.kwargs["getter"] or attribute for attribute, signal in signals.items()]
    setters = [signal.kwargs["setter"] for signal in signals.values()]
    _check_names(name, driver, (*getters, *setters, position, move, moving, stop))
    if position is None:
        cls = type(f"Wrapped{type(driver).__name__}", (LegacyDevice,), signals)
        device: LegacyDevice = cls(driver, name=name, **options)
        return device
    members = {
        "readback": DriverSignal(position, kind="hinted", units=units or None, precision=precision),
        **signals,
        "move_attribute": move,
        "moving_attribute": staticmethod(moving) if callable(moving) else moving,
        "stop_attribute": stop,
    }
    cls = type(f"Wrapped{type(driver).__name__}", (WrappedPositioner,), members)
    positioner: LegacyDevice = cls(
        driver, name=name, egu=units, precision=precision, limits=limits, tolerance=tolerance, **options
    )
    return positioner


def _check_names(device: str, driver: Any, used: Iterable[object]) -> None:
    """Refuse what the driver does not have: a target set to a misspelt attribute would stay there and move nothing.

    Nothing of the driver is evaluated; one that makes up its attributes when they are asked for is believed.
    """
    if hasattr(type(driver), "__getattr__"):
        return
    for attribute in used:
        if isinstance(attribute, str) and inspect.getattr_static(driver, attribute, _MISSING) is _MISSING:
            close = difflib.get_close_matches(attribute, dir(driver), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ValueError(f"{device}: {type(driver).__name__} has no {attribute!r}{hint}")


def _declare(read: SignalDeclarations, config: SignalDeclarations, *, hint_first: bool) -> dict[str, DriverSignal]:
    declared: dict[str, DriverSignal] = {}
    for declarations, usual_kind in ((read, "normal"), (config, "config")):
        named = declarations if isinstance(declarations, Mapping) else {name: name for name in declarations}
        for name, declaration in named.items():
            if name in declared:
                raise ValueError(f"signal {name!r} is declared twice; name one of them differently with a mapping.")
            kind = "hinted" if hint_first and not declared and usual_kind == "normal" else usual_kind
            if not isinstance(declaration, DriverSignal):
                write = declaration if isinstance(declaration, str) else None
                declaration = DriverSignal(declaration, write=write, kind=kind)
            elif declaration.kind_is_open:
                declaration.kind = Kind[kind]
            declared[name] = declaration
    return declared
