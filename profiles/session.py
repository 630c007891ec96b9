"""The session: a configuration becomes devices of both generations, a RunEngine and a catalog, and ends in order."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from bluesky import RunEngine
from bluesky.run_engine import set_bluesky_event_loop

from catalog import CatalogSession
from coexistence import SharedResources
from coexistence.config import DualConfig, Generation
from profiles.configuration import load_configuration
from profiles.instruments import (
    Hardware,
    Instrument,
    InstrumentFailed,
    InstrumentsFailed,
    connect_all,
    facts_of,
)
from profiles.interruption import AbortOnInterrupt
from profiles.log import log_to_file
from profiles.metadata import Provenance, SharedMetadata
from profiles.named_devices import Devices
from profiles.wire_record import WireRecord

if TYPE_CHECKING:
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

    from profiles.simulation import SimulatedBench

logger = logging.getLogger("profiles.session")

DEFAULT_DATA_DIRECTORY = Path("tandem-data")
CATALOG_WAIT_S = 60.0
ABORT_TIMEOUT_S = 5.0
SHUTDOWN_TIMEOUT_S: dict[Generation, float] = {"v4": 5.0, "v2": 10.0}
LOOP_TIMEOUT_S = 2.0
SETTLING_TIME_S = 1.0
"""How long a stopped motion may take to notice."""


class Session:
    """Devices of both generations, one RunEngine, one catalog; made by :meth:`open`, best in a `with` block.

    Attributes
    ----------
    RE
        The RunEngine. It returns a result object (`run_start_uids`, `plan_result`, `exit_status`); every document
        is journalled in the data directory before the next message is processed.
    devices
        Connected devices by id: `devices["power"]` or `devices.power`.
    config
        The configuration the session was opened with.
    data_dir
        Where runs and metadata are kept.
    capture
        The session's part of the catalog: its journal, and the address of the web page.
    resources
        The wires of both generations: who holds and waits for what.
    simulated
        The simulated bench, or None.
    instruments
        Every configured instrument by id, with its error if it did not connect.
    """

    RE: RunEngine
    capture: CatalogSession

    def __init__(
        self,
        config: DualConfig,
        *,
        simulate: bool,
        data_dir: Path,
        interrupt: Literal["abort", "pause"],
        call_returns_result: bool,
    ) -> None:
        self.config = config
        self.data_dir = data_dir
        self.resources = SharedResources(config)
        self.simulated: SimulatedBench | None = None
        self.instruments: dict[str, Instrument] = {}
        self._connected: dict[str, Any] = {}
        self._failures: dict[str, InstrumentFailed] = {}
        self.devices = Devices(self._connected, self._failures)
        self._simulate = simulate
        self._interrupt = interrupt
        self._call_returns_result = call_returns_result
        self._last_run: str | None = None
        self._cleanup = contextlib.ExitStack()
        self._closing = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls,
        config: str | os.PathLike[str] | DualConfig,
        *,
        simulate: bool = False,
        data_dir: str | os.PathLike[str] | None = None,
        strict: bool = False,
        interrupt: Literal["abort", "pause"] | None = None,
        call_returns_result: bool = True,
    ) -> Session:
        """Open a session: connect every enabled instrument, in parallel, and start recording.

        An instrument that fails does not stop the others; it is in :attr:`failures`, and asking `devices` for it
        tells why. The catalog's server starts meanwhile and is not waited for.

        Parameters
        ----------
        config
            A TOML file, the name of a profile that comes with the project (`"sim"`, `"lab"`), or a `DualConfig`.
        simulate
            Put simulated instruments in place of all wires.
        data_dir
            Where runs are kept; else `[catalog] directory` of the configuration, else `tandem-data` in the
            current folder.
        strict
            Raise when an instrument did not connect.
        interrupt
            What Ctrl-C does to a running plan: `"abort"` ends it and the script, `"pause"` is bluesky's own
            meaning. By default `"pause"` at an interactive prompt, `"abort"` in a script.
        call_returns_result
            Whether `RE(...)` returns a result object. False returns a tuple of uids as bluesky does by
            default, for scripts that unpack it.

        Raises
        ------
        ConfigError
            With all problems of the configuration, or with the instruments that cannot be simulated.
        DataDirectoryError
            The data directory cannot be written.
        InstrumentsFailed
            With `strict`: what did not connect, and why.
        """
        if not isinstance(config, DualConfig):
            config = load_configuration(config)
        session = cls(
            config,
            simulate=simulate,
            data_dir=Path(data_dir or config.catalog_directory or DEFAULT_DATA_DIRECTORY).expanduser().resolve(),
            interrupt=interrupt or ("pause" if _at_a_prompt() else "abort"),
            call_returns_result=call_returns_result,
        )
        try:
            session._start()
            if strict and session.failures:
                raise InstrumentsFailed(list(session.failures.values()))
        except BaseException:
            session.close()
            raise
        return session

    @property
    def failures(self) -> dict[str, InstrumentFailed]:
        """What did not connect, by id."""
        return dict(self._failures)

    @property
    def catalog(self) -> CatalogOfBlueskyRuns:
        """The catalog of all runs of the data directory: `catalog[-1]`, `catalog[scan_id]`, `catalog[uid]`.

        Opened when first asked for, which waits for the server. A run that has ended is in it: queries read
        their own writes.

        Raises
        ------
        CatalogError
            The server did not start, or not in time.
        """
        runs = self.capture.catalog(CATALOG_WAIT_S)
        if self._last_run is not None:
            self.capture.wait_delivered(self._last_run, CATALOG_WAIT_S)
            self._last_run = None
        return runs

    def close(self) -> None:
        """End the session: abort what runs, stop v4, then v2, close the wires, the journal and the simulators.

        Each step has its time limit; an error in one does not keep the next from happening. The catalog daemon
        goes on until everything is delivered, and stops when no other session uses it. Closing twice is harmless.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
            atexit.unregister(self.close)
            self._cleanup.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        connected = ", ".join(self.devices) or "none"
        failed = f"; not connected: {', '.join(self._failures)}" if self._failures else ""
        return f"<Session {self.config.application.name!r}: {connected}{failed}; data in {self.data_dir}>"

    def _start(self) -> None:
        atexit.register(self.close)
        self.capture = CatalogSession(
            self.data_dir, pause=lambda: self.RE.request_pause(defer=False), on_trouble=_tell_about_the_disk
        )
        self._clean_up(self.capture.close)
        self._clean_up(log_to_file(self.data_dir / "logs", self.config.application.log_level))
        if self.config.catalog.keep_running:
            self.capture.keep()
        if self._simulate:
            self._start_simulators()
        self.RE = self._make_run_engine()
        self.RE.subscribe(self.capture.journal)
        wire_record = WireRecord(self.resources)
        self.RE.preprocessors.append(wire_record)
        self.RE.subscribe(wire_record.take)
        self.RE.subscribe(self._note_end_of_run, "stop")
        simulated_cameras = self.simulated.cameras if self.simulated is not None else None
        hardware = Hardware(self.resources, self.data_dir / "images", simulated_cameras)
        self._clean_up(hardware.close)
        self._connect(hardware)
        self._clean_up(self._stop_devices)
        self._clean_up(self._end_plan)

    def _clean_up(self, step: Any) -> None:
        """Have a step done when the session closes, before those that were added earlier."""

        def attempt() -> None:
            try:
                step()
            except Exception:
                logger.exception("A step of closing the session failed; the next ones follow")

        self._cleanup.callback(attempt)

    def _start_simulators(self) -> None:
        from profiles.simulation import SimulatedBench

        self.simulated = SimulatedBench(self.config)
        self._clean_up(self.simulated.close)
        self.simulated.start()

    def _make_run_engine(self) -> RunEngine:
        # The loop must exist before any v4 device: devices bind to the loop that runs when they connect.
        loop = asyncio.new_event_loop()
        metadata = SharedMetadata(self.data_dir / "metadata.json")
        with contextlib.nullcontext() if self.config.v2.active_instruments else _without_ophyd():
            run_engine = RunEngine(
                metadata,
                loop=loop,
                scan_id_source=metadata.next_scan_id,
                md_normalizer=Provenance(self.config, self._facts),
                call_returns_result=self._call_returns_result,
                context_managers=[AbortOnInterrupt] if self._interrupt == "abort" else None,
            )
        self._clean_up(lambda: _end_loop(run_engine))
        return run_engine

    def _connect(self, hardware: Hardware) -> None:
        instruments = []
        for generation, config in self.config.instruments():
            if self.simulated is not None:
                config = self.simulated.replace_wire(config)
            instruments.append(Instrument(generation, config))
        self.instruments = {instrument.config.id: instrument for instrument in instruments}
        connect_all(instruments, hardware, self.RE.loop, self.config.storage_directories)
        for name, instrument in self.instruments.items():
            if instrument.error is None:
                self._connected[name] = instrument.device
            else:
                self._failures[name] = instrument.error

    def _facts(self) -> dict[str, dict[str, Any]]:
        facts = {name: facts_of(instrument) for name, instrument in self.instruments.items() if instrument.connected}
        if self.simulated is not None:
            for name in facts:
                facts[name]["simulated"] = True
        return facts

    def _note_end_of_run(self, _: str, document: dict[str, Any]) -> None:
        self._last_run = document["run_start"]

    def _end_plan(self) -> None:
        """Abort a plan that runs or is paused; give up its clean-up when that takes too long."""
        for end in (lambda: self.RE.abort("the session was closed"), self.RE.halt):
            if self.RE.state in ("idle", "panicked"):
                return
            # abort() of a paused plan runs its clean-up on the calling thread, with the handlers for Ctrl-C, which
            # only the main thread may install.
            self.RE.context_managers = []
            ending = threading.Thread(target=_quietly, args=(end,), name="end plan", daemon=True)
            ending.start()
            deadline = time.monotonic() + ABORT_TIMEOUT_S
            while self.RE.state != "idle" and time.monotonic() < deadline:
                time.sleep(0.01)

    def _stop_devices(self) -> None:
        """Stop v4, then v2; blocking drivers cannot be cancelled and are left behind when they hang."""
        deadline = time.monotonic() + self._shutdown_timeout("v4")
        self._stop_generation("v4", deadline)
        _settle_tasks(self.RE.loop, deadline)
        self._stop_generation("v2", time.monotonic() + self._shutdown_timeout("v2"))
        self._connected.clear()

    def _shutdown_timeout(self, generation: Generation) -> float:
        return self.config.generation(generation).shutdown_timeout or SHUTDOWN_TIMEOUT_S[generation]

    def _stop_generation(self, generation: Generation, deadline: float) -> None:
        # What a device from elsewhere does may be somebody else's: a plan has stopped what it moved itself.
        own = [i for i in self.instruments.values() if i.connected and not i.config.is_foreign]
        devices = [i.device for i in own if i.generation == generation]
        stopping = [(device, _stopped_in_thread(device, self.RE.loop, deadline)) for device in devices]
        for device, future in stopping:
            try:
                future.result(max(0.0, deadline - time.monotonic()))
            except Exception as error:
                logger.warning("%s did not stop in order: %s", device.name, str(error) or type(error).__name__)


def _at_a_prompt() -> bool:
    if hasattr(sys, "ps1"):
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


@contextlib.contextmanager
def _without_ophyd() -> Iterator[None]:
    """Keep the RunEngine, which looks for ophyd's version, from importing all of ophyd for it."""
    if "ophyd" in sys.modules:
        yield
        return
    sys.modules["ophyd"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["ophyd"]


def _stopped_in_thread(device: Any, loop: asyncio.AbstractEventLoop, deadline: float) -> Future[None]:
    """Stop what moves of a device and wait until it stands, on a thread that may be left behind."""
    future: Future[None] = Future()

    def stop() -> None:
        try:
            parts = list(_parts_of(device))
            for part in parts:
                stopping = part.stop(success=True) if callable(getattr(part, "stop", None)) else None
                if asyncio.iscoroutine(stopping):
                    asyncio.run_coroutine_threadsafe(stopping, loop).result()
            while any(getattr(part, "moving", False) for part in parts) and time.monotonic() < deadline:
                time.sleep(0.01)
            if callable(getattr(device, "destroy", None)):
                device.destroy()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=stop, name=f"stop {device.name}", daemon=True).start()
    return future


def _parts_of(device: Any) -> Iterator[Any]:
    """Yield a device and what it consists of: axes and rotators are devices of their own in both generations."""
    yield device
    if callable(getattr(device, "walk_subdevices", None)):
        yield from (part for _, part in device.walk_subdevices())
    elif callable(getattr(device, "children", None)):
        for _, child in device.children():
            yield from _parts_of(child)


def _settle_tasks(loop: asyncio.AbstractEventLoop, deadline: float) -> None:
    """Let motions that were just stopped come to their end while they still have a wire; cancel what goes on."""

    async def settle() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if not tasks:
            return
        _, going_on = await asyncio.wait(tasks, timeout=min(SETTLING_TIME_S, max(0.0, deadline - time.monotonic())))
        for task in going_on:
            task.cancel()
        # Their errors are those of having been stopped; asyncio would report them as never looked at.
        await asyncio.gather(*tasks, return_exceptions=True)

    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(settle(), loop).result(max(0.0, deadline - time.monotonic()) + LOOP_TIMEOUT_S)


def _end_loop(run_engine: RunEngine) -> None:
    """End the RunEngine's loop and its thread."""
    loop, thread = run_engine.loop, run_engine._th
    for step in (loop.shutdown_asyncgens, loop.shutdown_default_executor):
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(step(), loop).result(LOOP_TIMEOUT_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(LOOP_TIMEOUT_S)
    if not thread.is_alive():
        loop.close()
    set_bluesky_event_loop(None)


def _quietly(function: Any) -> None:
    try:
        function()
    except Exception as error:
        logger.debug("Ending the plan: %s", error)


def _tell_about_the_disk(error: Exception) -> None:
    print(f"\n{error}\nThe scan pauses; make room and resume it with RE.resume().", file=sys.stderr)
