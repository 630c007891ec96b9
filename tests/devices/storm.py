"""Both generations of all instruments measure and move at once while replies get lost and cables are pulled."""

import asyncio
import contextlib
import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import psutil
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import FailedStatus
from ophyd_async.core import NotConnectedError

from coexistence import CoexistenceError, SharedResources
from coexistence.config import InstrumentConfig
from devices.cameras import GivenCameras
from devices.errors import MoveStopped, MoveTimedOut
from devices.protocols.errors import ProtocolError
from profiles.hardware import Hardware, build
from simulators import SimulatorProcess, build_spec, default_instrument, default_wire
from simulators.camera import SimulatedCamera

GENERATIONS = ("v2", "v4")
EXPECTED = (CoexistenceError, ProtocolError, MoveStopped, MoveTimedOut)
"""What a plan may fail with while things go wrong; a hung driver is none of it."""

WIRES = {
    "power": [default_instrument("Newport1830C")],
    "stage": [default_instrument("ESP300")],
    "laser": [default_instrument("MaiTai", emission=True, shutter_open=True)],
    "bus": [default_instrument("ELL14", address=address) for address in "23A"],
    "dmm": [default_instrument("ScpiMeter")],
}
INSTRUMENTS = {
    "power": ("Newport1830C", "power", {}),
    "stage": ("ESP300", "stage", {"move_timeout": 10.0}),
    "laser": ("MaiTai", "laser", {"tuning_timeout": 10.0}),
    "two": ("Elliptec", "bus", {"address": "2", "move_timeout": 10.0}),
    "three": ("Elliptec", "bus", {"address": "3", "move_timeout": 10.0}),
    "ten": ("Elliptec", "bus", {"address": "A", "move_timeout": 10.0}),
    "dmm": ("ScpiMeter", "dmm", {"setup": ["VOLT:NPLC 0.2"], "reply_timeout": 0.5}),
    "camera": ("PVCAMInstrument", "", {"region": (900, 999, 1, 900, 999, 1), "frame_timeout": 0.3}),
}
RANGES = {
    "power_power": (-0.01, 0.1),
    "stage_axis_1": (1, 5),
    "stage_axis_2": (10, 15),
    "stage_axis_3": (-160, -120),
    "laser_wavelength": (790, 830),
    "two": (20, 40),
    "three": (100, 140),
    "ten": (200, 240),
    "dmm_reading": (-10, 10),
}
"""By column without the generation: between what its values are as long as nobody gets another's answer.

What shares a wire has ranges of its own.
"""
MOVABLES = {
    "stage_axis_1": lambda devices: devices["stage"].axis[1],
    "stage_axis_2": lambda devices: devices["stage"].axis[2],
    "stage_axis_3": lambda devices: devices["stage"].axis[3],
    "laser_wavelength": lambda devices: devices["laser"].wavelength,
    "two": lambda devices: devices["two"],
    "three": lambda devices: devices["three"],
    "ten": lambda devices: devices["ten"],
}


class Storm:
    """A bench of all instruments in both generations, and what goes wrong on it.

    Parameters
    ----------
    simulators
        With the wires :data:`WIRES`.
    folder
        For the camera's images.
    seed
        Of what is done and what goes wrong.
    """

    def __init__(self, simulators: SimulatorProcess, folder: Path, seed: int) -> None:
        self.simulators = simulators
        self.rng = random.Random(seed)
        self.camera = SimulatedCamera(time_scale=0.1)
        self.hardware = Hardware(SharedResources(), folder, lambda: GivenCameras(self.camera))
        self.engine = RunEngine({}, context_managers=[])
        self.engine.subscribe(self._check)
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.devices = {generation: self._connected(generation) for generation in GENERATIONS}
        self._calm = threading.Event()

    def _connected(self, generation: Any) -> dict[str, Any]:
        made = {}
        for name, (type_name, wire, options) in INSTRUMENTS.items():
            address = {"camera_name": self.camera.name}
            if wire:
                port = self.simulators.ports[wire]
                tcp = wire == "dmm"
                address = {"resource": f"TCPIP0::{port.replace(':', '::')}::SOCKET"} if tcp else {"serial_port": port}
            config = InstrumentConfig(id=f"{generation}_{name}", type=type_name, timeout=0.5, **address, **options)
            device = made[name] = build(config, generation, self.hardware)
            _patiently(lambda device=device: self._connect(device, generation))
        return made

    def _connect(self, device: Any, generation: str) -> None:
        connecting = device.connect()
        if generation == "v4":
            call_in_bluesky_event_loop(connecting)

    def _check(self, name: str, document: dict[str, Any]) -> None:
        if name != "event":
            return
        for column, value in document["data"].items():
            low, high = RANGES.get(column.partition("_")[2], (None, None))
            if low is None:
                continue
            self.outcomes["values"] += 1
            margin = 0.1 + 0.01 * abs(high)
            if not low - margin <= value <= high + margin:
                self.wrong.append(f"{column} is {value}")

    def begin(self) -> None:
        """Bring everything into its range."""
        pairs = [part for name in MOVABLES for part in (self._movable("v2", name), RANGES[name][0])]
        _patiently(lambda: self.engine(bps.mv(*pairs)))

    def _movable(self, generation: str, name: str) -> Any:
        return MOVABLES[name](self.devices[generation])

    def _plan(self) -> Any:
        chosen = self.rng.sample(sorted(INSTRUMENTS), self.rng.randint(1, len(INSTRUMENTS)))
        readables = [self.devices[self.rng.choice(GENERATIONS)][name] for name in chosen]
        both = self.rng.choice(chosen)
        readables += [d for g in GENERATIONS if (d := self.devices[g][both]) not in readables]
        moves = []
        for name in self.rng.sample(sorted(MOVABLES), self.rng.randint(0, 3)):
            low, high = RANGES[name]
            moves += [self._movable(self.rng.choice(GENERATIONS), name), round(self.rng.uniform(low, high), 1)]
        if moves:
            yield from bps.mv(*moves)
        yield from bp.count(readables, num=self.rng.randint(1, 3))

    def run(self, duration_s: float) -> None:
        """Run plans while things go wrong, and put everything right at the end."""
        trouble = threading.Thread(target=self._trouble, args=(random.Random(self.rng.random()),), name="trouble")
        trouble.start()
        end = time.monotonic() + duration_s
        try:
            while time.monotonic() < end:
                self.run_one()
        finally:
            self._calm.set()
            trouble.join()
            self._calm.clear()

    def run_one(self) -> None:
        """Run one plan; it may fail with what names its trouble."""
        try:
            self.engine(self._plan())
            self.outcomes["plans that succeeded"] += 1
        except (FailedStatus, *EXPECTED) as error:
            cause = error.__cause__ if isinstance(error, FailedStatus) else error
            self.outcomes[type(cause).__name__] += 1
            if not isinstance(cause, EXPECTED):
                self.wrong.append(f"a plan failed with {cause!r}")

    def _trouble(self, rng: random.Random) -> None:
        while not self._calm.wait(rng.uniform(0.1, 1.5)):
            kind = rng.choice(("silence", "late", "garbage", "unplug", "stop", "camera"))
            wire = rng.choice(sorted(WIRES))
            self.outcomes[f"trouble: {kind}"] += 1
            if kind == "unplug":
                self.simulators.unplug(wire)
                self._calm.wait(rng.uniform(0.1, 1.0))
                self.simulators.replug(wire)
            elif kind == "stop":
                self._stop(rng)
            elif kind == "camera":
                self.camera.stall()
                self._calm.wait(rng.uniform(0.1, 0.5))
                self.camera.stall(False)
            else:
                more = {"late": {"delay_s": rng.uniform(0.1, 3.0)}, "garbage": {"data": "#%&\r\n"}}.get(kind, {})
                self.simulators.fault(wire, kind, **more)
        self.simulators.clear_faults()

    def _stop(self, rng: random.Random) -> None:
        generation, name = rng.choice(GENERATIONS), rng.choice(sorted(MOVABLES))
        movable, success = self._movable(generation, name), rng.random() < 0.5
        if generation == "v2":
            movable.stop(success=success)
        else:
            asyncio.run_coroutine_threadsafe(movable.stop(success=success), self.engine.loop)

    def all_work(self, patience_s: float = 30.0) -> bool:
        """Tell whether a plan can measure with everything, once the wires have come to rest."""
        everything = [device for made in self.devices.values() for device in made.values()]
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            with contextlib.suppress(FailedStatus, *EXPECTED):
                self.engine(bp.count(everything))
                return True
        return False

    def close(self) -> None:
        """End all devices and close their wires."""
        for devices in self.devices.values():
            for device in devices.values():
                device.destroy()
        self.hardware.close()


def _patiently(work: Callable[[], object]) -> None:
    """Do what may fail in spite of sound wires on a machine that stands still: time-outs are short here."""
    for _ in range(4):
        with contextlib.suppress(FailedStatus, NotConnectedError, *EXPECTED):
            work()
            return
    work()


def storm(folder: Path, duration_s: float, *, seed: int = 0, time_scale: float = 0.1) -> dict[str, Any]:
    """Let both generations of all instruments work through faults for a while.

    Returns
    -------
    dict
        Counts of what happened; ``wrong`` lists crossed values and unexpected errors, ``all_work`` tells whether
        everything works at the end, ``memory_bytes`` what the last third of the time took, ``threads`` and
        ``descriptors`` what is left after closing.
    """
    spec = build_spec([default_wire(*wire) for wire in WIRES.items()], seed=seed, time_scale=time_scale)
    process = psutil.Process()
    with SimulatorProcess(spec) as simulators:
        gc.collect()
        threads, descriptors = set(threading.enumerate()), process.num_fds()
        bench = Storm(simulators, folder, seed)
        try:
            bench.begin()
            # Logs and statistics fill up first: they keep a fixed number of exchanges.
            bench.run(duration_s * 2 / 3)
            gc.collect()
            before = process.memory_info().rss
            bench.run(duration_s / 3)
            gc.collect()
            after = process.memory_info().rss
            all_work = bench.all_work()
        finally:
            bench.close()
        loop, loop_thread = bench.engine.loop, bench.engine._th
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        loop_thread.join(5)
        loop.close()
        outcomes, wrong = dict(bench.outcomes), bench.wrong
        del bench
        gc.collect()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and (set(threading.enumerate()) - threads or process.num_fds() > descriptors):
            time.sleep(0.05)
        return {
            **outcomes,
            "wrong": wrong,
            "all_work": all_work,
            "memory_bytes": after - before,
            "threads": sorted(thread.name for thread in set(threading.enumerate()) - threads),
            "descriptors": process.num_fds() - descriptors,
        }
