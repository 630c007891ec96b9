"""One optical bench with every instrument the plans need, and devices of both generations on it."""

from typing import Any

import numpy as np
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

TIME_SCALE = 0.1
SAMPLE_AXIS_DEG = 25.0
SAMPLE_EXTINCTION = 4.0
OPTICS = [
    {"name": "half_wave_plate", "kind": "half_wave_plate", "angle_offset_deg": 8.3},
    # A dichroic sample that stands still: its axis is minus its offset.
    {"name": "sample", "kind": "polarizer", "angle_offset_deg": -SAMPLE_AXIS_DEG, "extinction": SAMPLE_EXTINCTION},
    {"name": "polarizer", "kind": "polarizer", "angle_offset_deg": 12.7, "transmission": 0.95, "extinction": 500},
]
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
        default_wire("stage", [default_instrument("ESP300", limit_silence_s=0.4)]),
        default_wire("laser", [default_instrument("MaiTai", emission=True, shutter_open=True, shutter_stale_s=0.1)]),
    ],
    seed=7,
    time_scale=TIME_SCALE,
    bench={"optics": OPTICS},
)
WIRES = {"meter": "Newport1830C", "bus": "Elliptec", "stage": "ESP300", "laser": "MaiTai"}


class Bench:
    """Devices of one generation on the simulated bench, and a RunEngine whose documents are kept."""

    def __init__(self, generation: str, simulators: SimulatorProcess, folder: Any) -> None:
        self.generation = generation
        self.simulators = simulators
        self.RE = RunEngine({}, context_managers=[], call_returns_result=True)
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.RE.subscribe(lambda name, document: self.documents.append((name, document)))
        self._ports = {
            wire: SharedSerialPort(simulators.ports[wire], **registry.line_settings(kind, {}))
            for wire, kind in WIRES.items()
        }
        module = devices.v2 if generation == "v2" else devices.v4
        self.meter = self._make(module.Newport1830C, "meter", "meter")
        self.hwp = self._make(module.Elliptec, "bus", "hwp", address="2")
        self.polarizer = self._make(module.Elliptec, "bus", "polarizer", address="3")
        self.stage = self._make(module.ESP300, "stage", "stage", axes=(1, 2))
        self.laser = self._make(module.MaiTai, "laser", "laser")
        self.simulated_camera = SimulatedCamera(
            "cam", power_w=lambda: self.truth["bench"]["power_w"], seed=7, time_scale=TIME_SCALE
        )
        self._cameras = CameraPool(GivenCameras(self.simulated_camera), folder)
        region = (900, 1155, 1, 860, 1115, 1)
        self.camera = module.PVCAMInstrument(self._cameras.get("cam"), name="camera", exposure=5, region=region)
        self._connect(self.camera)

    @property
    def truth(self) -> dict[str, Any]:
        """What the bench really does."""
        return self.simulators.truth()

    def axis_truth(self) -> dict[str, Any]:
        """Where the swept axis really is."""
        axis: dict[str, Any] = self.truth["instruments"]["stage"]["axes"]["1"]
        return axis

    def events(self, stream: str = "primary") -> list[dict[str, Any]]:
        """Return the data of a stream's events in the last run."""
        begins = [number for number, (name, _) in enumerate(self.documents) if name == "start"]
        last = self.documents[begins[-1] :]
        descriptors = {d["uid"] for name, d in last if name == "descriptor" and d["name"] == stream}
        found = [d["data"] for name, d in last if name == "event" and d["descriptor"] in descriptors]
        for name, page in last:
            if name == "event_page" and page["descriptor"] in descriptors:
                rows = range(len(page["seq_num"]))
                found += [{key: values[row] for key, values in page["data"].items()} for row in rows]
        return found

    def stop_document(self) -> dict[str, Any]:
        """Return the last run's stop document."""
        return [document for name, document in self.documents if name == "stop"][-1]

    def value(self, signal: Any) -> Any:
        """Ask the instrument for a signal's value."""
        if self.generation == "v4":
            return call_in_bluesky_event_loop(signal.get_value())
        signal.trigger().wait(5)
        return signal.get()

    def close(self) -> None:
        """End devices and wires."""
        for device in (self.meter, self.hwp, self.polarizer, self.stage, self.laser):
            device.destroy()
        self._cameras.close()
        for port in self._ports.values():
            port.close()

    def _make(self, kind: Any, wire: str, name: str, **options: Any) -> Any:
        device = kind(Connection(self._ports[wire], name, timeout=5.0), name=name, **options)
        self._connect(device)
        return device

    def _connect(self, device: Any) -> None:
        if self.generation == "v2":
            device.connect()
        else:
            call_in_bluesky_event_loop(device.connect())


def bench_power(hwp_deg: float, polarizer_deg: float, source_w: float) -> float:
    """Work out by Jones matrices what reaches the meter: the bench's truth, told independently of its model."""
    twice = np.radians(2 * (hwp_deg - 8.3))
    field = np.array([np.cos(twice), np.sin(twice)])
    field = _analyser(SAMPLE_AXIS_DEG, 1.0, SAMPLE_EXTINCTION) @ field
    field = _analyser(polarizer_deg - 12.7, 0.95, 500) @ field
    return float(source_w * field @ field)


def _analyser(axis_deg: float, transmission: float, extinction: float) -> Any:
    axis = np.array([np.cos(np.radians(axis_deg)), np.sin(np.radians(axis_deg))])
    along = np.outer(axis, axis)
    return np.sqrt(transmission) * (along + (np.eye(2) - along) / np.sqrt(extinction))
