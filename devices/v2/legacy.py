"""The one way to make a blocking driver a device: declared signals, measured on a thread of the driver's own.

The RunEngine calls synchronous devices on its event loop's thread, so nothing here does I/O there: ``trigger()``,
``set()`` and ``stage()`` hand the work to a worker thread and return a status, ``read()`` and
``read_configuration()`` return what was measured last, with the time of that measurement.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from event_model import DataKey
from ophyd import Component, Device, Kind, Signal
from ophyd.signal import UNSET_VALUE
from ophyd.status import DeviceStatus

from coexistence import Connection
from devices.data_keys import field_data_key, source, value_data_key
from devices.dialogue import tell_unheard
from devices.protocols.conversation import Stamped
from devices.protocols.field import Field
from devices.v2.driver import BlockingDriver
from devices.v2.errors import DriverHung, NotMeasured
from devices.v2.watchdog import WATCHDOG
from devices.v2.worker import Worker

Getter: TypeAlias = str | Callable[[Any], Any]
Setter: TypeAlias = str | Callable[[Any, Any], Any]


class MeasuredSignal(Signal):
    """A value of a driver as it was measured last. Made by :class:`DriverSignal`."""

    def __init__(
        self,
        *,
        getter: Getter,
        setter: Setter | None,
        units: str | None,
        precision: int | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(value=UNSET_VALUE, **kwargs)
        self._getter = getter
        self._setter = setter
        self._units = units
        self._precision = precision

    @property
    def field(self) -> Field[Any] | None:
        """What the value means, for drivers that know their protocol."""
        driver = self.parent.driver
        if isinstance(driver, BlockingDriver) and isinstance(self._getter, str):
            return driver.fields.get(self._getter)
        return None

    @property
    def source(self) -> str:
        """Wire and command, or driver and attribute, that the value comes from."""
        driver = self.parent.driver
        if (field := self.field) is not None:
            return source(driver.connection.description, field.command)
        getter = self._getter if isinstance(self._getter, str) else getattr(self._getter, "__name__", "function")
        return f"driver:{type(driver).__name__}.{getter}"

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value that may be set; equal when there are none."""
        field = self.field
        return (0.0, 0.0) if field is None or field.limits is None else field.limits

    def measure(self) -> Stamped[Any]:
        """Ask the driver for the value on the calling thread, without taking note of it."""
        driver = self.parent.driver
        if self.field is not None:
            return driver.read(self._getter)
        if isinstance(self._getter, str):
            value = getattr(driver, self._getter)
            value = value() if callable(value) else value
        else:
            value = self._getter(driver)
        if isinstance(value, Stamped):
            return value
        return Stamped(value.item() if isinstance(value, np.generic) else value, time.time())

    def write(self, value: Any) -> Stamped[Any]:
        """Set the value on the calling thread, and return what the driver reports afterwards."""
        driver = self.parent.driver
        if self.field is not None:
            return driver.write(self._getter, value)
        if self._setter is None:
            raise AttributeError(f"{self.name} can only be read")
        if not isinstance(self._setter, str):
            self._setter(driver, value)
        elif callable(inspect.getattr_static(driver, self._setter, None)):
            getattr(driver, self._setter)(value)
        else:
            setattr(driver, self._setter, value)
        return self.measure()

    def take(self, measured: Stamped[Any]) -> None:
        """Take note of a measurement and tell the subscribers."""
        super().put(measured.value, timestamp=measured.timestamp, force=True)

    @property
    def last(self) -> Any:
        """The last measured value, or None when there is none."""
        return None if self._readback is UNSET_VALUE else self._readback

    def forget(self) -> None:
        """Have no value until the next measurement."""
        self._readback = UNSET_VALUE

    def get(self, **_: Any) -> Any:
        """Return the last measured value; NotMeasured when there is none."""
        if self._readback is UNSET_VALUE:
            raise NotMeasured(self.name)
        return self._readback

    def check_value(self, value: Any, **_: Any) -> None:
        """Raise ValueRefused when the value is not allowed."""
        if (field := self.field) is not None:
            driver = self.parent.driver
            with driver.dialogue.naming() if isinstance(driver, BlockingDriver) else contextlib.nullcontext():
                field.check(value)

    def trigger(self) -> DeviceStatus:
        """Measure this value on the driver's thread."""
        return self.parent.do(lambda: self.take(self.measure()), f"measuring {self.name}")

    def set(self, value: Any, *, timeout: float | None = None, settle_time: float | None = None) -> DeviceStatus:
        """Set the value on the driver's thread; done when the driver has reported it back.

        Raises
        ------
        ValueRefused
            At once, when the value is not allowed.
        """
        self.check_value(value)
        return self.parent.do(
            lambda: self.take(self.write(value)), f"setting {self.name}", timeout=timeout, settle_time=settle_time
        )

    def put(self, value: Any, *, timeout: float | None = None, **_: Any) -> None:
        """Set the value and wait until it is done; for scripts, never on an event loop's thread."""
        self.set(value, timeout=timeout).wait()

    def describe(self) -> dict[str, DataKey]:
        """Return the data key; for values of unknown type, that of the last measured one."""
        if (field := self.field) is not None:
            return {self.name: field_data_key(field, self.source)}
        return {self.name: value_data_key(self.get(), self.source, self._units, self._precision)}


class DriverSignal(Component):
    """Declares a signal over an attribute or a pair of methods of a driver.

    Parameters
    ----------
    read
        Attribute or method of the driver, or a function of the driver, that gives the value. None takes the name the
        signal is declared under.
    write
        Attribute or method of the driver that takes a new value, or a function of driver and value. None leaves the
        signal read-only, unless the driver's protocol says how to set it.
    kind
        ``hinted``, ``normal``, ``config`` or ``omitted``, as in ophyd. None is ``normal``, or what :func:`wrap` was
        given the signal as.
    units, precision
        For drivers that do not know their own units; ours do.
    """

    def __init__(
        self,
        read: Getter | None = None,
        *,
        write: Setter | None = None,
        kind: str | None = None,
        units: str | None = None,
        precision: int | None = None,
        doc: str | None = None,
    ) -> None:
        super().__init__(
            MeasuredSignal,
            kind=kind or "normal",
            doc=doc,
            getter=read,
            setter=write,
            units=units,
            precision=precision,
        )

        self.kind_is_open = kind is None

    def __set_name__(self, owner: type, attr_name: str) -> None:
        if self.kwargs["getter"] is None:
            self.kwargs["getter"] = attr_name
        super().__set_name__(owner, attr_name)


class LegacyDevice(Device):
    """A blocking driver as a synchronous ophyd device that never blocks the event loop.

    Subclasses declare :class:`DriverSignal` attributes; :func:`devices.v2.wrap` declares them for you.

    Parameters
    ----------
    driver
        The driver. Calls to it come from one thread at a time, unless it says ``thread_safe = True``.
    name
        Name of the device; columns are called ``<name>_<signal>``.
    timeout_s
        How long one request (a trigger, a set, a staging) may take, waiting for those before it included.
    """

    def __init__(
        self,
        driver: Any,
        *,
        name: str,
        timeout_s: float = 10.0,
        parent: LegacyDevice | None = None,
        **kwargs: Any,
    ) -> None:
        self.driver = driver
        self.timeout_s = timeout_s
        self._worker = Worker(f"{name} (v2)", self)
        self._driver_lock = threading.RLock()
        self._settings_known = False
        super().__init__("", name=name, parent=parent, **kwargs)

    @property
    def connection(self) -> Connection | None:
        """The owner's face of the driver's wire, as v4 devices have it; None for drivers from elsewhere."""
        connection = getattr(self.driver, "connection", None)
        return connection if isinstance(connection, Connection) else None

    @contextlib.contextmanager
    def exclusive(self, grace_s: float | None = None) -> Iterator[None]:
        """Have the driver for oneself, unless it is safe to use from several threads.

        Parameters
        ----------
        grace_s
            How long to wait before going on regardless; None waits until it is free.
        """
        if getattr(self.driver, "thread_safe", False):
            yield
            return
        held = self._driver_lock.acquire(timeout=-1 if grace_s is None else grace_s)
        try:
            yield
        finally:
            if held:
                self._driver_lock.release()

    def connect(self) -> None:
        """Connect the driver and measure every signal once. Blocks: not for an event loop's thread.

        Raises
        ------
        CoexistenceError
            When the port is missing, in use, or nothing answers.
        ProtocolError
            When something else answers.
        """
        with self.exclusive():
            connect = getattr(self.driver, "connect", None)
            if callable(connect) and isinstance(self.driver, BlockingDriver):
                connect()
        self._measure(Kind.config)
        self._measure(Kind.normal)
        for child in self._children():
            child.connect()

    def destroy(self) -> None:
        """End this device and its threads; a driver of ours leaves its wire to others."""
        if isinstance(self.driver, BlockingDriver):
            self.driver.close()
        self._end_threads()
        super().destroy()

    def _end_threads(self) -> None:
        self._worker.stop()
        for child in self._children():
            child._end_threads()

    def do(
        self,
        work: Callable[[], None],
        what: str,
        *,
        timeout: float | None = None,
        settle_time: float | None = None,
    ) -> DeviceStatus:
        """Have work done on the driver's thread.

        Returns
        -------
        DeviceStatus
            Done when the work is; fails with the work's own error, or with DriverHung when it does not return.
        """
        status = DeviceStatus(self, call_stop_on_failure=False, settle_time=settle_time)
        limit = self.timeout_s if timeout is None else timeout
        once = threading.Lock()

        def end(error: Exception | None) -> None:
            if not once.acquire(blocking=False):
                tell_unheard(error)
                return
            if error is None:
                status.set_finished()
            else:
                status.set_exception(error)

        watch = WATCHDOG.watch(limit, lambda: end(DriverHung(self.name, what, limit)))

        def job() -> None:
            error: Exception | None = None
            try:
                with self.exclusive():
                    work()
            except Exception as caught:
                error = caught
            WATCHDOG.over(watch)
            end(error)

        self._worker.submit(job)
        return status

    def trigger(self) -> DeviceStatus:
        """Measure what ``read()`` returns; done when the last reply has come.

        A measurement that fails leaves no value behind, so that an older one is never taken for it.
        """
        return self.do(self._measure_event, f"measuring {self.name}")

    def stage(self) -> DeviceStatus:
        """Measure the settings, so that ``read_configuration()`` tells those of this run."""
        return self.do(self._measure_settings, f"reading the settings of {self.name}")

    def unstage(self) -> list[object]:
        """Have the settings measured anew by the next staging or trigger; nothing else is to be undone."""
        self._settings_known = False
        return [self]

    def _measure_event(self) -> None:
        if not self._settings_known:
            self._measure_settings()
        self._measure(Kind.normal)
        for child in self._children():
            child._measure_event()

    def _measure_settings(self) -> None:
        self._measure(Kind.config)
        for child in self._children():
            child._measure_settings()
        self._settings_known = True

    def _measure(self, kind: Kind) -> None:
        signals = [s for s in self._measured_signals() if s.kind & kind]
        try:
            measured = [signal.measure() for signal in signals]
        except Exception:
            for signal in signals:
                signal.forget()
            raise
        for signal, value in zip(signals, measured, strict=True):
            signal.take(value)

    def _measured_signals(self) -> list[MeasuredSignal]:
        members = (getattr(self, name) for name in self.component_names)
        return [member for member in members if isinstance(member, MeasuredSignal)]

    def _children(self) -> list[LegacyDevice]:
        members = (getattr(self, name) for name in self.component_names)
        return [member for member in members if isinstance(member, LegacyDevice)]
