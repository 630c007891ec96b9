"""A simulated lab for scans: both generations of every driver share its wires, connected once for many tests."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop

import devices.v2
import devices.v4
from coexistence import Connection, SharedSerialPort
from devices import registry
from devices.cameras import CameraPool, GivenCameras
from simulators import SimulatorProcess
from simulators.camera import SimulatedCamera
from simulators.spec import build_spec, default_instrument, default_wire

POLARIZER_OFFSET_DEG = 12.7
SPEC = build_spec(
    [
        default_wire("meter", [default_instrument("Newport1830C", sample_s=0.0)]),
        default_wire(
            "bus",
            [
                default_instrument("ELL14", address="2", optic="half_wave_plate"),
                default_instrument("ELL14", address="3", optic="polarizer"),
            ],
        ),
        default_wire("stage", [default_instrument("ESP300", limit_silence_s=0.1)]),
        default_wire("laser", [default_instrument("MaiTai", emission=True, shutter_open=True, shutter_stale_s=0.05)]),
    ],
    seed=7,
    time_scale=0.02,
    bench={
        "optics": [
            {"name": "half_wave_plate", "kind": "half_wave_plate"},
            {"name": "polarizer", "kind": "polarizer", "angle_offset_deg": POLARIZER_OFFSET_DEG, "extinction": 500},
        ]
    },
)
SMALL_REGION = (900, 931, 1, 860, 891, 1)
WIRES = {"meter": "Newport1830C", "bus": "Elliptec", "stage": "ESP300", "laser": "MaiTai"}


class Lab:
    """Devices of both generations on one bench, and a RunEngine whose documents are kept."""

    def __init__(self, simulators: SimulatorProcess, folder: Path) -> None:
        self.simulators = simulators
        self.RE = RunEngine({}, context_managers=[], call_returns_result=True)
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.RE.subscribe(lambda name, document: self.documents.append((name, document)))
        self.ports = {
            wire: SharedSerialPort(simulators.ports[wire], late_reply_limit=0.05, **_line(kind))
            for wire, kind in WIRES.items()
        }
        self.connections: list[Connection] = []
        self.light = self.truth
        self._cameras = CameraPool(
            GivenCameras(*(SimulatedCamera(name, seed=7, time_scale=0.02) for name in ("v2", "v4"))), folder
        )
        self.generations = {"v2": self._devices(devices.v2, "v2"), "v4": self._devices(devices.v4, "v4")}

    @property
    def truth(self) -> dict[str, Any]:
        """What the bench really does."""
        return self.simulators.truth()["bench"]

    @property
    def shutter_is_open(self) -> bool:
        """What the laser's shutter really is."""
        return self.simulators.truth()["instruments"]["laser"]["shutter_open"]

    def power_at(self, polarizer_deg: float) -> float:
        """Work out the power behind the polarizer, by Malus's law with what the bench was with the shutter open."""
        cosine = math.cos(math.radians(polarizer_deg - self.light["angle_deg"]))
        return float(self.light["amplitude_w"] * cosine**2 + self.light["offset_w"])

    def events(self, stream: str = "primary") -> list[dict[str, Any]]:
        """Return the data of a stream's events in the last run."""
        begins = [number for number, (name, _) in enumerate(self.documents) if name == "start"]
        last = self.documents[begins[-1] :]
        descriptors = {d["uid"] for name, d in last if name == "descriptor" and d["name"] == stream}
        events = {d["seq_num"]: d["data"] for name, d in last if name == "event" and d["descriptor"] in descriptors}
        return [events[number] for number in sorted(events)]

    def result(self, kind: str) -> dict[str, Any]:
        """Return the only row of a kind of result in the last run."""
        (row,) = self.events(f"result_{kind}")
        return row

    @property
    def stop(self) -> dict[str, Any]:
        """The last run's stop document."""
        return [document for name, document in self.documents if name == "stop"][-1]

    def close(self) -> None:
        """End devices and wires."""
        for generation in self.generations.values():
            for device in vars(generation).values():
                if hasattr(device, "destroy"):
                    device.destroy()
        self._cameras.close()
        for port in self.ports.values():
            port.close()

    def _devices(self, module: Any, generation: str) -> SimpleNamespace:
        def connected(device: Any) -> Any:
            if generation == "v2":
                device.connect()
            else:
                call_in_bluesky_event_loop(device.connect())
            return device

        def make(kind: Any, wire: str, name: str, **options: Any) -> Any:
            name = f"{name}_{generation}"
            self.connections.append(Connection(self.ports[wire], name, timeout=5.0))
            return connected(kind(self.connections[-1], name=name, **options))

        stages = make(module.ESP300, "stage", "stage", axes=(1,))
        return SimpleNamespace(
            meter=make(module.Newport1830C, "meter", "meter"),
            hwp=make(module.Elliptec, "bus", "hwp", address="2"),
            polarizer=make(module.Elliptec, "bus", "polarizer", address="3"),
            stages=stages,
            laser=make(module.MaiTai, "laser", "laser"),
            camera=connected(
                module.PVCAMInstrument(
                    self._cameras.get(generation), name=f"camera_{generation}", exposure=1, region=SMALL_REGION
                )
            ),
        )


def _line(kind: str) -> dict[str, Any]:
    line = registry.line_settings(kind, {})
    line.pop("late_reply_limit", None)
    return line
