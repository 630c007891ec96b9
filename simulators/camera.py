"""A simulated scientific CMOS camera with the face of pyvcam's `Camera`, looking at the bench's beam.

It lives in the process that uses it, as the vendor's library does. Frames come from a small pool that is rendered
beforehand, so that taking one costs what copying it costs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint16]

WAIT_FOREVER = -1
EXPOSURE_MODES: Mapping[str, int] = {
    "Internal Trigger": 7 << 8,
    "Edge Trigger": 9 << 8,
    "Software Trigger Edge": 12 << 8,
}
"""Names and values of the trigger modes this camera has."""

_LARGEST = 65535
_BINNINGS = ((1, 1), (2, 2), (4, 4))


@dataclass
class Region:
    """A region of interest with inclusive ends; what does not fill a bin is cut off."""

    s1: int
    s2: int
    sbin: int
    p1: int
    p2: int
    pbin: int

    def __post_init__(self) -> None:
        if not (0 <= self.s1 <= self.s2 and 0 <= self.p1 <= self.p2):
            raise ValueError("Coordinates must be 0 <= s1 <= s2 and 0 <= p1 <= p2")
        if self.sbin < 1 or self.pbin < 1:
            raise ValueError("Binning must be >= 1")
        self.s2 -= (self.s2 - self.s1 + 1) % self.sbin
        self.p2 -= (self.p2 - self.p1 + 1) % self.pbin

    @property
    def shape(self) -> tuple[int, int]:
        """Width and height in binned pixels."""
        return (self.s2 - self.s1 + 1) // self.sbin, (self.p2 - self.p1 + 1) // self.pbin

    def same_ends(self, other: Region) -> bool:
        """Whether the regions have the same pixels, however they are binned."""
        return (self.s1, self.s2, self.p1, self.p2) == (other.s1, other.s2, other.p1, other.p2)

    def overlaps(self, other: Region) -> bool:
        """Whether the regions have pixels in common."""
        beside = self.s2 < other.s1 or other.s2 < self.s1
        return not (beside or self.p2 < other.p1 or other.p2 < self.p1)


@dataclass(frozen=True, kw_only=True)
class Beam:
    """How the beam falls on the sensor."""

    centre: tuple[float, float] = (1040.0, 990.0)
    """Serial and parallel pixel coordinates."""
    sigma: tuple[float, float] = (210.0, 180.0)
    """Standard deviations of the intensity, in pixels."""
    counts_per_joule: float = 5e14
    offset_counts: float = 100.0
    read_noise_counts: float = 2.0


class _Pool:
    """Frames of one region, rendered again only when the light has changed."""

    def __init__(self, region: Region, beam: Beam, frames: int, rng: np.random.Generator) -> None:
        width, height = region.shape
        across = self._profile(region.s1, region.sbin, width, beam.centre[0], beam.sigma[0])
        along = self._profile(region.p1, region.pbin, height, beam.centre[1], beam.sigma[1])
        self._beam = beam
        self._share = np.outer(along, across)
        self._noise = [rng.standard_normal((height, width), dtype=np.float32) for _ in range(frames)]
        self._frames: list[Pixels | None] = [None] * frames
        self._energies = [-1.0] * frames

    @staticmethod
    def _profile(first: int, binned: int, number: int, centre: float, sigma: float) -> npt.NDArray[np.float32]:
        pixels = first + binned * (np.arange(number) + 0.5) - 0.5
        density = np.exp(-(((pixels - centre) / sigma) ** 2) / 2) / (np.sqrt(2 * np.pi) * sigma)
        profile: npt.NDArray[np.float32] = (density * binned).astype(np.float32)
        return profile

    def frame(self, number: int, energy_j: float) -> Pixels:
        """Give frame `number` exposed to that energy."""
        slot = number % len(self._frames)
        frame = self._frames[slot]
        # A thousandth is less than the shot noise of any pixel.
        if frame is None or abs(energy_j - self._energies[slot]) > 1e-3 * abs(self._energies[slot]):
            frame = self._render(slot, energy_j)
            self._frames[slot], self._energies[slot] = frame, energy_j
        return frame

    def prepare(self, numbers: range, energy_j: float) -> None:
        """Render what frames of these numbers will need."""
        for number in numbers[: len(self._frames)]:
            self.frame(number, energy_j)

    def _render(self, slot: int, energy_j: float) -> Pixels:
        counts = self._share * np.float32(energy_j * self._beam.counts_per_joule)
        spread = np.sqrt(counts + np.float32(self._beam.read_noise_counts**2))
        counts += self._noise[slot] * spread
        counts += np.float32(self._beam.offset_counts)
        pixels: Pixels = np.clip(np.rint(counts), 0, _LARGEST).astype(np.uint16)
        pixels.flags.writeable = False
        return pixels


@dataclass
class _Acquisition:
    """One running acquisition: when its frames are complete."""

    exposure_s: float
    readout_s: float
    started: float
    buffered: int
    limit: int | None
    """Number of frames of a sequence; None when live."""
    triggered: bool
    taken: int = 0

    def __post_init__(self) -> None:
        self.starts: list[float] = []

    @property
    def period_s(self) -> float:
        """From one frame to the next: exposure and readout overlap."""
        return max(self.exposure_s, self.readout_s)

    def trigger(self, now: float) -> bool:
        """Begin a frame, unless the camera is not ready for one."""
        ready = not self.starts or now >= self.starts[-1] + self.period_s
        if not ready or (self.limit is not None and len(self.starts) >= self.limit):
            return False
        self.starts.append(now)
        return True

    def done_at(self, index: int) -> float | None:
        """When frame `index` is complete; None when nothing says that it will ever begin."""
        if self.limit is not None and index >= self.limit:
            return None
        if not self.triggered:
            return self.started + index * self.period_s + self.exposure_s + self.readout_s
        if index >= len(self.starts):
            return None
        return self.starts[index] + self.exposure_s + self.readout_s

    def produced(self, now: float) -> int:
        """How many frames are complete."""
        if self.triggered:
            return sum(start + self.exposure_s + self.readout_s <= now for start in self.starts)
        elapsed = now - self.started - self.exposure_s - self.readout_s
        number = 0 if elapsed < 0 else int(elapsed / self.period_s) + 1
        return number if self.limit is None else min(number, self.limit)


class SimulatedCamera:
    """Prime BSI like camera: 2048 x 2048 pixels of 16 bit, regions, binning, circular buffer, trigger modes.

    Method and attribute names are those of pyvcam's `Camera`, so that a driver written for the one works with the
    other. All methods may be called from any thread; `finish()` ends a `poll_frame()` that waits.

    Args:
        name: what `get_available_camera_names()` reports.
        power_w: gives the power on the sensor in W whenever a frame is taken, for example
            `OpticalBench().power`, or one that asks a `SimulatorProcess` for its truth.
        beam: how the light falls on the sensor.
        seed: of the noise.
        pool_frames: how many different frames there are.
        row_time_s: readout time of one (unbinned) row of the region.
        time_scale: below 1 exposures and readout are faster than real.
    """

    def __init__(
        self,
        name: str = "PrimeBSI",
        *,
        power_w: Callable[[], float] = lambda: 1e-3,
        beam: Beam | None = None,
        seed: int = 0,
        pool_frames: int = 4,
        row_time_s: float = 11.2e-6,
        time_scale: float = 1.0,
    ) -> None:
        self.name = name
        self.serial_no = "A21A203005"
        self.chip_name = "GS2020"
        self.sensor_size = (2048, 2048)
        self.bit_depth = 16
        self.binnings = list(_BINNINGS)
        self.exp_modes = dict(EXPOSURE_MODES)
        self.temp_setpoint = -20.0
        self._power_w = power_w
        self._beam = beam or Beam()
        self._seed = seed
        self._pool_frames = pool_frames
        self._row_time_s = row_time_s
        self._time_scale = time_scale
        self._changed = threading.Condition()
        self._open = False
        self._plugged = True
        self._exp_time = 10
        self._exp_mode = EXPOSURE_MODES["Internal Trigger"]
        self._whole = self._whole_sensor()
        self._regions = [self._whole]
        self._pool: _Pool | None = None
        self._pool_of: tuple[int, ...] = ()
        self._acquisition: _Acquisition | None = None
        self._frame_offset = 0
        self._losing = 0
        self._stalled = False

    def get_available_camera_names(self) -> list[str]:
        """List the cameras that are plugged in: this one."""
        return [self.name] if self._plugged else []

    @property
    def is_open(self) -> bool:
        """Whether the camera is open."""
        return self._open

    def open(self) -> None:
        """Open the camera with its power-up settings."""
        if not self._plugged:
            raise RuntimeError(f"Failed to open camera {self.name!r}")
        if self._open:
            raise RuntimeError(f"Camera {self.name!r} is already open")
        self._open = True
        self._exp_time = 10
        self._exp_mode = EXPOSURE_MODES["Internal Trigger"]
        self._whole = self._whole_sensor()
        self._regions = [self._whole]

    def close(self) -> None:
        """End what runs and close the camera."""
        self._end()
        self._open = False

    @property
    def exp_time(self) -> int:
        """Exposure time in ms."""
        self._check()
        return self._exp_time

    @exp_time.setter
    def exp_time(self, value: int) -> None:
        self._check()
        if not 0 <= value <= 10_000:
            raise ValueError(f"Invalid value: {value} - {self.name} only supports exposure times between 0 and 10000")
        self._exp_time = int(value)

    @property
    def exp_mode(self) -> int:
        """Trigger mode, one of `exp_modes`; it is set by name or value."""
        self._check()
        return self._exp_mode

    @exp_mode.setter
    def exp_mode(self, value: str | int) -> None:
        self._check()
        mode = self.exp_modes.get(value, -1) if isinstance(value, str) else value
        if mode not in self.exp_modes.values():
            raise ValueError(f"Invalid key '{value}' for exp_modes - Available keys are: {list(self.exp_modes)}")
        self._exp_mode = mode

    @property
    def binning(self) -> tuple[int, int]:
        """Serial and parallel binning of the region; setting it leaves the region's ends."""
        self._check()
        return self._regions[0].sbin, self._regions[0].pbin

    @binning.setter
    def binning(self, value: int | tuple[int, int]) -> None:
        self._check()
        pair = value if isinstance(value, tuple) else (value, value)
        if pair not in self.binnings:
            raise ValueError(f"{self.name} only supports {self.binnings} binnings")
        # The ends stay, also where they do not fill a bin: only a region that is chosen later is cut.
        self._regions[0].sbin, self._regions[0].pbin = pair

    @property
    def rois(self) -> list[Region]:
        """The regions of interest: one."""
        self._check()
        return self._regions

    def set_roi(self, s1: int, p1: int, w: int, h: int) -> None:
        """Choose a region of `w` by `h` unbinned pixels in place of the whole sensor.

        As with the vendor's library a second region does not replace the first: `reset_rois()` comes before.
        """
        self._check()
        if w < 1 or h < 1:
            raise ValueError("Width and height must be >= 1")
        if not (0 <= s1 <= s1 + w <= self.sensor_size[0] and 0 <= p1 <= p1 + h <= self.sensor_size[1]):
            raise ValueError("Could not add ROI. ROI extends beyond limits of sensor")
        present = self._regions[0]
        region = Region(s1, s1 + w - 1, present.sbin, p1, p1 + h - 1, present.pbin)
        if not present.same_ends(self._whole):
            if present.overlaps(region):
                raise ValueError("Could not add ROI. New ROI overlaps existing ROI")
            raise ValueError("Could not add ROI. Camera only supports 1 rois")
        self._regions = [region]

    def reset_rois(self) -> None:
        """Go back to the whole sensor, with the binning it was last given."""
        self._check()
        self._regions = [self._whole]

    def shape(self, roi_index: int = 0) -> tuple[int, int]:
        """Width and height of a frame in binned pixels."""
        self._check()
        return self._regions[roi_index].shape

    @property
    def temp(self) -> float:
        """Sensor temperature in degrees Celsius."""
        self._check()
        return self.temp_setpoint

    @property
    def readout_time(self) -> int:
        """Readout time of a frame in microseconds."""
        self._check()
        return round(self._readout_s() * 1e6)

    def start_live(
        self, exp_time: int | None = None, buffer_frame_count: int = 16, reset_frame_counter: bool = False
    ) -> None:
        """Start to fill a circular buffer, whose oldest frames are lost to whoever is too slow."""
        self._start(exp_time, buffer_frame_count, None, reset_frame_counter)

    def start_seq(self, exp_time: int | None = None, num_frames: int = 1, reset_frame_counter: bool = False) -> None:
        """Start a sequence of `num_frames` frames, all of which are kept."""
        self._start(exp_time, num_frames, num_frames, reset_frame_counter)

    def poll_frame(
        self,
        timeout_ms: int = WAIT_FOREVER,
        oldestFrame: bool = True,  # noqa: N803
        copyData: bool = True,  # noqa: N803
    ) -> tuple[dict[str, Any], float, int]:
        """Wait for a frame.

        Args:
            timeout_ms: how long to wait; -1 for as long as the acquisition runs.
            oldestFrame: False skips to the newest frame.
            copyData: False gives the pool's own array, which cannot be written to.

        Returns:
            The frame (`pixel_data`, rows by columns, and `meta_data`), frames per second, and the frame's number,
            counted from 1; a gap in the numbers means lost frames.

        Raises:
            RuntimeError: no frame came in time, or the acquisition has ended.
        """
        deadline = None if timeout_ms < 0 else time.monotonic() + timeout_ms / 1000
        with self._changed:
            while True:
                self._check()
                acquisition = self._acquisition
                if acquisition is None:
                    raise RuntimeError("Failed to get frame: no acquisition is running")
                now = time.monotonic()
                index = self._ready(acquisition, now, oldest=oldestFrame)
                if index is not None:
                    break
                if deadline is not None and now >= deadline:
                    raise RuntimeError("Frame timeout. Verify the timeout exceeds the exposure time")
                self._changed.wait(self._wait_s(acquisition, now, deadline))
            acquisition.taken = index + 1
            number = self._frame_offset + index + 1
            pool = self._current_pool()
        energy_j = self._power_w() * self._exposed_s(acquisition)
        pixels = pool.frame(number, energy_j)
        done = acquisition.done_at(index) or now
        header = {
            "frameNr": number,
            "timestampBOF": round((done - acquisition.exposure_s - acquisition.readout_s) * 1e9),
            "timestampEOF": round(done * 1e9),
            "exposureTime": round(self._exposed_s(acquisition) * 1e9),
            "bitDepth": self.bit_depth,
        }
        frame = {"pixel_data": pixels.copy() if copyData else pixels, "meta_data": {"frame_header": header}}
        return frame, 1 / acquisition.period_s, number

    def get_frame(self, exp_time: int | None = None, timeout_ms: int = WAIT_FOREVER) -> Pixels:
        """Take a single frame."""
        self.start_seq(exp_time)
        try:
            pixels: Pixels = self.poll_frame(timeout_ms)[0]["pixel_data"]
        finally:
            self.finish()
        return pixels

    def finish(self) -> None:
        """End the acquisition; what waits for a frame fails."""
        self._check()
        self._end()

    def sw_trigger(self) -> None:
        """Begin a frame in software trigger mode."""
        self._check()
        if self._exp_mode != EXPOSURE_MODES["Software Trigger Edge"] or not self._trigger():
            raise RuntimeError("Failed to deliver software trigger")

    def pulse(self) -> bool:
        """Give an edge to the trigger input; returns whether it began a frame."""
        return self._exp_mode == EXPOSURE_MODES["Edge Trigger"] and self._trigger()

    def lose_frames(self, number: int) -> None:
        """Let the next frames get lost on their way to the computer."""
        with self._changed:
            self._losing += number

    def stall(self, on: bool = True) -> None:
        """Let no frame arrive any more, or again."""
        with self._changed:
            self._stalled = on
            self._changed.notify_all()

    def unplug(self) -> None:
        """Pull the plug: everything fails, also what waits."""
        with self._changed:
            self._plugged = False
            self._acquisition = None
            self._changed.notify_all()

    def replug(self) -> None:
        """Plug the camera in again; it has to be opened anew."""
        self._plugged = True
        self._open = False

    def _whole_sensor(self) -> Region:
        return Region(0, self.sensor_size[0] - 1, 1, 0, self.sensor_size[1] - 1, 1)

    def _check(self) -> None:
        if not self._plugged:
            raise RuntimeError(f"Camera {self.name!r} does not respond")
        if not self._open:
            raise RuntimeError("Camera is not open")

    def _readout_s(self) -> float:
        region = self._regions[0]
        return (region.p2 - region.p1 + 1) * self._row_time_s

    def _exposed_s(self, acquisition: _Acquisition) -> float:
        return acquisition.exposure_s / self._time_scale

    def _current_pool(self) -> _Pool:
        region = self._regions[0]
        key = (region.s1, region.s2, region.sbin, region.p1, region.p2, region.pbin)
        if self._pool is None or self._pool_of != key:
            rng = np.random.default_rng(self._seed)
            self._pool, self._pool_of = _Pool(region, self._beam, self._pool_frames, rng), key
        return self._pool

    def _start(self, exp_time: int | None, buffered: int, limit: int | None, reset_counter: bool) -> None:
        self._check()
        if self._acquisition is not None:
            raise RuntimeError("Failed to start: an acquisition is already running")
        if buffered < 1:
            raise ValueError("At least one frame")
        if exp_time is not None:
            self.exp_time = exp_time
        if reset_counter:
            self._frame_offset = 0
        first = self._frame_offset + 1
        energy_j = self._power_w() * self._exp_time / 1000
        self._current_pool().prepare(range(first, first + buffered), energy_j)
        with self._changed:
            self._acquisition = _Acquisition(
                exposure_s=self._exp_time / 1000 * self._time_scale,
                readout_s=self._readout_s() * self._time_scale,
                started=time.monotonic(),
                buffered=buffered,
                limit=limit,
                triggered=self._exp_mode != EXPOSURE_MODES["Internal Trigger"],
            )

    def _end(self) -> None:
        with self._changed:
            if self._acquisition is not None:
                self._frame_offset += self._acquisition.produced(time.monotonic())
            self._acquisition = None
            self._changed.notify_all()

    def _trigger(self) -> bool:
        with self._changed:
            begun = self._acquisition is not None and self._acquisition.trigger(time.monotonic())
            self._changed.notify_all()
            return begun

    def _ready(self, acquisition: _Acquisition, now: float, *, oldest: bool) -> int | None:
        produced = 0 if self._stalled else acquisition.produced(now)
        first = max(acquisition.taken, produced - acquisition.buffered)
        while self._losing and first < produced:
            self._losing -= 1
            first = acquisition.taken = first + 1
        if first >= produced:
            return None
        return first if oldest else produced - 1

    def _wait_s(self, acquisition: _Acquisition, now: float, deadline: float | None) -> float | None:
        due = None if self._stalled else acquisition.done_at(acquisition.taken)
        moments = [moment for moment in (due, deadline) if moment is not None]
        return max(0.0, min(moments) - now) if moments else None
