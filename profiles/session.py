"""The session: a configuration becomes devices of both generations, a RunEngine and a catalog, and ends in order."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from bluesky import RunEngine

from catalog import CatalogSession
from catalog.errors import CatalogUnavailable
from catalog.external import ExternalServer
from coexistence import SharedResources
from coexistence.config import DualConfig, Generation
from coexistence.runtime import DualRuntimeManager, InstrumentState, Transition, exit_on_sigterm
from coexistence.runtime.lanes import ThreadLane
from devices import registry
from profiles.baseline import ForgivingSupplementalData
from profiles.configuration import load_configuration
from profiles.control.questions import open_control_channel
from profiles.data_directory import CATALOG_WAIT_S, DEFAULT_DATA_DIRECTORY
from profiles.display import LiveDisplay, show_progress
from profiles.facts import facts_of
from profiles.hardware import Hardware, build
from profiles.instruments import Instrument, InstrumentFailed, InstrumentsFailed, V2Instrument, V4Instrument
from profiles.interruption import finishing
from profiles.live_measurements import LiveMeasurements
from profiles.log import log_to_file
from profiles.metadata import Provenance, SharedMetadata
from profiles.named_devices import Devices
from profiles.notices import tell, tell_of_trouble
from profiles.run_engine import end_plan, end_run_engine, make_run_engine
from profiles.suspenders import SignalSuspender, suspender
from profiles.v2_reminder import remind_of_v2
from profiles.wire_loss import WaitForLostWires, WireWatch
from profiles.wire_record import WireRecord

if TYPE_CHECKING:
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns

    from profiles.simulation import SimulatedBench

logger = logging.getLogger("profiles.session")

DISPLAY_DELAY_S = 2.0
"""How long after opening what shows runs is imported: the prompt comes first."""

DeviceListener = Callable[[str, Any], object]


class Session:
    """Devices of both generations, one RunEngine, one catalog; made by :meth:`open`, best in a `with` block.

    Attributes
    ----------
    RE
        The RunEngine. It returns a result object (`run_start_uids`, `plan_result`, `exit_status`); every document
        is journalled in the data directory before the next message is processed.
    manager
        The runtime of both generations: state, health, restarts, listeners.
    devices
        Connected devices by id: `devices["power"]` or `devices.power`.
    sd
        What is recorded with every run: `sd.baseline`, `sd.monitors`, `sd.flyers`.
    bec
        bluesky's `BestEffortCallback`: table, peak statistics, plots. In a script: `RE.subscribe(session.bec)`.
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
    measurements
        What both generations measure, live: `measurements.bridge.subscribe()`.
    """

    RE: RunEngine
    capture: CatalogSession
    manager: DualRuntimeManager
    measurements: LiveMeasurements

    def __init__(
        self,
        config: DualConfig,
        *,
        simulate: bool,
        data_dir: Path,
        interrupt: Literal["abort", "pause"],
        call_returns_result: bool,
        suspend_on_wire_loss: bool,
        display: bool,
        connect_wait: float | None,
    ) -> None:
        self.config = config
        self.data_dir = data_dir
        self.resources = SharedResources(config)
        self.simulated: SimulatedBench | None = None
        self.instruments: dict[str, Instrument] = {}
        self.devices = Devices()
        self.sd = ForgivingSupplementalData()
        self._simulate = simulate or config.simulation.always
        self._interrupt = interrupt
        self._call_returns_result = call_returns_result
        self._suspend_on_wire_loss = suspend_on_wire_loss
        self._has_display = display
        self._connect_wait = connect_wait
        self.bec = LiveDisplay()
        self._in_baseline = _baseline_names(config)
        self._device_listeners: list[DeviceListener] = []
        self._opened = False
        self._last_run: str | None = None
        self._changing = threading.Lock()
        self._known: dict[str, Any] = {}
        self._cleanup = contextlib.ExitStack()
        self._closing = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls,
        config: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | DualConfig,
        *,
        simulate: bool = False,
        data_dir: str | os.PathLike[str] | None = None,
        strict: bool = False,
        interrupt: Literal["abort", "pause"] | None = None,
        call_returns_result: bool = True,
        suspend_on_wire_loss: bool | None = None,
        display: bool | None = None,
        connect_wait: float | None = None,
    ) -> Session:
        """Open a session: connect every enabled instrument, in parallel, and start recording.

        An instrument that fails does not stop the others; it is in :attr:`failures`, and asking `devices` for it
        tells why. The catalog's server starts meanwhile and is not waited for.

        Parameters
        ----------
        config
            A TOML file, the name of a profile that comes with the project (`"sim"`, `"lab"`), several of them, of
            which later ones go over earlier ones, or a `DualConfig`.
        simulate
            Put simulated instruments in place of all wires, which `[simulation] always` of the configuration does
            without.
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
        suspend_on_wire_loss
            Whether a plan whose wire is lost waits for it and goes on from its last checkpoint, instead of failing;
            else `[application] suspend_on_wire_loss` says so.
        display
            Whether table, peak statistics and plots of each run are shown; by default at an interactive prompt.
        connect_wait
            Seconds after which to return while slow instruments are still connecting; a line tells when each is
            there. None waits for all, each for its own `connect_timeout` at the most.

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
            config = load_configuration(*([config] if isinstance(config, str | os.PathLike) else config))
        wait_for_wires = (
            config.application.suspend_on_wire_loss if suspend_on_wire_loss is None else suspend_on_wire_loss
        )
        session = cls(
            config,
            simulate=simulate,
            data_dir=Path(data_dir or config.catalog_directory or DEFAULT_DATA_DIRECTORY).expanduser().resolve(),
            interrupt=interrupt or ("pause" if _at_a_prompt() else "abort"),
            call_returns_result=call_returns_result,
            suspend_on_wire_loss=wait_for_wires,
            display=_at_a_prompt() if display is None else display,
            connect_wait=connect_wait,
        )
        try:
            session._start()
            if strict and session.failures:
                raise InstrumentsFailed(list(session.failures.values()))
        except BaseException:
            session.stop()
            raise
        return session

    @property
    def failures(self) -> dict[str, InstrumentFailed]:
        """What did not connect, by id."""
        return {name: each.error for name, each in self.instruments.items() if each.error is not None}

    @property
    def catalog(self) -> CatalogOfBlueskyRuns:
        """The catalog of all runs of the data directory: `catalog[-1]`, `catalog[scan_id]`, `catalog[uid]`.

        Opened when first asked for, which waits for the server. A run that has ended is in it: queries read
        their own writes.

        Raises
        ------
        CatalogError
            The server did not start, or not in time; or the session is closed.
        """
        if self._closed:
            how = f"from catalog import open_catalog; open_catalog({str(self.data_dir)!r})"
            raise CatalogUnavailable(self.data_dir, f"The session is closed. Its runs are still there: {how}")
        runs = self.capture.catalog(CATALOG_WAIT_S)
        if self._last_run is not None:
            self.capture.wait_delivered(self._last_run, CATALOG_WAIT_S)
            self._last_run = None
        return runs

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until every instrument has connected or failed; return whether that is so."""
        return self.manager.wait_started(timeout)

    def suspend_when(
        self,
        signal: Any,
        *,
        below: float | None = None,
        above: float | None = None,
        unless: Any = None,
        **settings: Any,
    ) -> SignalSuspender:
        """Suspend plans while a signal of either generation is below or above a limit, or unless it has a value.

        No value, NaN and a signal that cannot be read suspend as well. See :mod:`profiles.suspenders` for the
        settings. Ended with `RE.remove_suspender(...)` of what is returned.

        Raises
        ------
        ValueError
            None or several conditions are given.
        """
        chosen = suspender(signal, below=below, above=above, unless=unless, **settings)
        self.RE.install_suspender(chosen)
        return chosen

    def add_device_listener(self, listener: DeviceListener) -> None:
        """Have `listener(id, device)` called, on any thread, for each device that connects or is replaced later."""
        self._device_listeners.append(listener)

    def exit_on_sigterm(self, leave: Callable[[], object] = lambda: None) -> None:
        """Let SIGTERM end the program as Ctrl-C ends a script: the session is closed in order. Main thread only.

        Parameters
        ----------
        leave
            Called at the signal, for a prompt that outlives a `SystemExit`; it may take no lock.
        """

        def may_exit() -> bool:
            if self._closed:
                return False
            leave()
            return True

        self._clean_up(exit_on_sigterm(may_exit))

    def stop(self, timeout: float | None = None) -> None:
        """End the session: abort what runs, stop v4, then v2, close the wires, the journal and the simulators.

        In any state and from any thread; on the RunEngine's own, from a callback for one, it returns at once. Each
        step has its time limit; an error in one does not keep the next from happening. The catalog daemon goes on
        until everything is delivered, and stops when no other session uses it. Stopping twice is harmless.

        Parameters
        ----------
        timeout
            Seconds for the plan and the instruments together; None leaves it to their own limits.
        """
        if hasattr(self, "RE") and threading.current_thread() is self.RE._th:
            threading.Thread(target=self.stop, args=(timeout,), name="stop session", daemon=True).start()
            return
        with finishing(), self._closing:
            if self._closed:
                return
            self._closed = True
            atexit.unregister(self.stop)
            if hasattr(self, "measurements"):
                self.measurements.close()
            if hasattr(self, "manager"):
                self.manager.shutdown(timeout)
            self._cleanup.close()
            self.devices._replace({}, {}, ())

    def close(self) -> None:
        """As :meth:`stop`, with the limits of the configuration."""
        self.stop()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        connected = ", ".join(self.devices) or "none"
        failed = f"; not connected: {', '.join(self.failures)}" if self.failures else ""
        return f"<Session {self.config.application.name!r}: {connected}{failed}; data in {self.data_dir}>"

    # Opening

    def _start(self) -> None:
        atexit.register(self.stop)
        self._open_capture()
        # The simulators are processes of their own: what is imported meanwhile costs no time.
        starting = self._begin_simulators() if self._simulate else None
        self._make_run_engine()
        for generation, instrument in self.config.instruments():
            with contextlib.suppress(Exception):  # told by name when the instrument is to start
                registry.device_class(instrument.type, generation)
        if starting is not None:
            starting.result()
        self._make_manager()
        self._fit_run_engine()
        self.manager.start(self._connect_wait)
        self._opened = True
        remind_of_v2(self.config)
        if self.config.application.supervise:
            self.manager.supervise()
        try:
            self._clean_up(open_control_channel(self))
        except Exception as error:  # nothing of the measurement depends on it
            logger.warning("Other terminals cannot look into this session: %s", error)

    def _clean_up(self, step: Callable[[], object]) -> None:
        """Have a step done when the session closes, before those that were added earlier."""

        def attempt() -> None:
            try:
                step()
            except Exception:
                logger.exception("A step of closing the session failed; the next ones follow")

        self._cleanup.callback(attempt)

    def _open_capture(self) -> None:
        catalog = self.config.catalog
        key_file = self.config.catalog_key_file
        server = ExternalServer(uri=catalog.uri, key_file=str(key_file or "")) if catalog.uri else None
        self.capture = CatalogSession(
            self.data_dir,
            pause=lambda: self.RE.request_pause(defer=False),
            on_trouble=tell_of_trouble,
            server=server,
        )
        self._clean_up(self.capture.close)
        self._clean_up(log_to_file(self.data_dir / "logs", self.config.application.log_level))
        if catalog.keep_running:
            self.capture.keep()

    def _begin_simulators(self) -> Future[None]:
        from profiles.simulation import SimulatedBench

        self.simulated = SimulatedBench(self.config)
        self._clean_up(self.simulated.close)
        return ThreadLane().run("start simulators", self.simulated.start).future

    def _make_run_engine(self) -> None:
        metadata = SharedMetadata(self.data_dir / "metadata.json")
        self.RE = make_run_engine(
            metadata,
            Provenance(self.config, self._facts),
            interrupt=self._interrupt,
            call_returns_result=self._call_returns_result,
            with_ophyd=bool(self.config.v2.active_instruments),
        )
        self._clean_up(lambda: end_run_engine(self.RE))

    def _make_manager(self) -> None:
        simulated_cameras = self.simulated.cameras if self.simulated is not None else None
        hardware = Hardware(self.resources, self.data_dir / "images", simulated_cameras)
        storage = self.config.storage_directories
        for generation, config in self.config.instruments():
            wired = config if self.simulated is None else self.simulated.replace_wire(config)
            kind = V2Instrument if generation == "v2" else V4Instrument
            made = partial(build, hardware=hardware, storage=storage[generation])
            self.instruments[config.id] = kind(wired, made)
        self.manager = DualRuntimeManager(
            self.config,
            v2=[each for each in self.instruments.values() if isinstance(each, V2Instrument)],
            v4=[each for each in self.instruments.values() if isinstance(each, V4Instrument)],
            resources=hardware,
            loop=self.RE.loop,
            end_plan=lambda timeout: end_plan(self.RE, timeout),
        )
        self.manager.add_listener(self._note_transition)

    def _fit_run_engine(self) -> None:
        run_engine = self.RE
        run_engine.subscribe(self.capture.journal)
        run_engine.subscribe(self._note_end_of_run, "stop")
        self.measurements = LiveMeasurements(run_engine, self.devices, self._generations)
        trouble = WireRecord(self.resources)
        run_engine.subscribe(trouble.take)
        if any(instrument.shadow_of for _, instrument in self.config.instruments()):
            from profiles.shadow_mode import ShadowMode

            run_engine.preprocessors.append(ShadowMode(self.config, self.devices, tell))
        run_engine.preprocessors += [self.sd, trouble]
        if self._suspend_on_wire_loss:
            watch = WireWatch(self.resources)
            self._clean_up(watch.close)
            # Outside of all others, so that it sees what they add.
            run_engine.preprocessors.append(WaitForLostWires(run_engine, watch, tell))
        if self._has_display:
            run_engine.subscribe(self.bec)
            self._clean_up(self.bec.prepare_later(DISPLAY_DELAY_S))
        if self._has_display or sys.stderr.isatty():
            show_progress(run_engine)

    def _generations(self) -> dict[str, Generation]:
        return {name: each.generation for name, each in self.instruments.items()}

    # What happens to devices and runs

    def _note_transition(self, transition: Transition) -> None:
        instrument = self.instruments.get(transition.subject)
        if instrument is None or transition.after not in (InstrumentState.RUNNING, InstrumentState.FAILED):
            return
        with self._changing:
            if transition.after is InstrumentState.RUNNING:
                instrument.error = None
                self._put_into_baseline(instrument)
                self._known[instrument.name] = instrument.device
            else:
                assert transition.error is not None
                instrument.error = instrument.failure(transition.error)
            states = {name: status.state for name, status in self.manager.instruments.items()}
            starting = (InstrumentState.CONFIGURED, InstrumentState.STARTING)
            self.devices._replace(
                {
                    name: each.device
                    for name, each in self.instruments.items()
                    if name in self._known and not each.error
                },
                self.failures,
                [name for name in self.instruments if states[name] in starting and name not in self._known],
            )
        if self._opened:
            self._tell_of(instrument)
        if instrument.connected:
            for listener in tuple(self._device_listeners):
                listener(instrument.name, instrument.device)

    def _put_into_baseline(self, instrument: Instrument) -> None:
        old, baseline = self._known.get(instrument.name), self.sd.baseline
        if old is None:
            if instrument.name in self._in_baseline:
                baseline.append(instrument.device)
        elif old in baseline:
            baseline[baseline.index(old)] = instrument.device

    def _tell_of(self, instrument: Instrument) -> None:
        if instrument.error is not None:
            logger.warning("not connected: %s", instrument.error)
        else:
            took = instrument.connect_time_s
            logger.info("%s is connected (%.1f s)", instrument.name, took, extra={"event": "connected"})

    def _facts(self) -> dict[str, dict[str, Any]]:
        facts = {name: facts_of(instrument) for name, instrument in self.instruments.items() if instrument.connected}
        if self.simulated is not None:
            for name in facts:
                facts[name]["simulated"] = True
        return facts

    def _note_end_of_run(self, _: str, document: dict[str, Any]) -> None:
        self._last_run = document["run_start"]


def _baseline_names(config: DualConfig) -> frozenset[str]:
    """Return the ids of the instruments that are read with every run."""
    chosen = config.application.baseline
    if not isinstance(chosen, bool):
        return frozenset(chosen)
    # A picture at the beginning and end of each run takes seconds and megabytes.
    return frozenset(each.id for _, each in config.instruments() if chosen and each.camera_name is None)


def _at_a_prompt() -> bool:
    if hasattr(sys, "ps1"):
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
