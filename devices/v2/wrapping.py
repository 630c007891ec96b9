"""Third-party drivers as devices in a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ophyd import Kind

from devices.v2.legacy import DriverSignal, Getter, LegacyDevice
from devices.v2.positioner import WrappedPositioner

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
        When a name is declared twice, or ``position`` comes without ``move``.
    """
    signals = _declare(read, config, hint_first=position is None)
    if position is None:
        if move is not None or stop is not None or moving is not None:
            raise ValueError(f"{name}: move, moving and stop need position, the attribute that gives the position.")
        cls = type(f"Wrapped{type(driver).__name__}", (LegacyDevice,), signals)
        device: LegacyDevice = cls(driver, name=name, **options)
        return device
    if move is None:
        raise ValueError(f"{name}: position needs move, the method or attribute that takes a target.")
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
