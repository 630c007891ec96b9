"""Regions as values, the vendor's library when it is there and when it is not, and files of frames."""

import subprocess
import sys
import types

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.cameras import CameraNotFound, CameraPool, CameraSdkMissing, Frame, FrameFile, PVCAMDriver, PvcamLibrary
from devices.protocols.errors import ValueRefused
from devices.protocols.pvcam import Region
from devices.registry import OptionProblem, check_options, instrument_type
from simulators.camera import SimulatedCamera

SIZE = 2048


@st.composite
def regions(draw, binnings=tuple(range(1, 9))):
    sbin, pbin = draw(st.sampled_from(binnings)), draw(st.sampled_from(binnings))
    s1, p1 = draw(st.integers(0, SIZE - 8)), draw(st.integers(0, SIZE - 8))
    columns = draw(st.integers(1, (SIZE - s1) // sbin))
    rows = draw(st.integers(1, (SIZE - p1) // pbin))
    return Region(s1, s1 + columns * sbin - 1, sbin, p1, p1 + rows * pbin - 1, pbin)


@given(regions())
def test_region_comes_back_from_its_numbers_and_fits_the_sensor(region):
    assert Region.parse(region.astuple()) == region
    assert Region.parse(np.array(region.astuple())) == region
    assert Region.parse(region) is region
    region.check((SIZE, SIZE), None)
    rows, columns = region.shape
    assert rows * region.pbin == region.height
    assert columns * region.sbin == region.width
    assert region.p1 + rows * region.pbin - 1 == region.p2


@given(st.lists(st.integers(-10, 3000), min_size=6, max_size=6))
def test_any_six_numbers_are_a_region_of_full_bins_or_refused_with_what_is_allowed(numbers):
    s1, s2, sbin, p1, p2, pbin = numbers
    ordered = 0 <= s1 <= s2 and 0 <= p1 <= p2 and sbin >= 1 and pbin >= 1
    if ordered and (s2 - s1 + 1) % sbin == (p2 - p1 + 1) % pbin == 0:
        assert min(Region.parse(numbers).shape) >= 1
    else:
        with pytest.raises(ValueRefused, match=r"region cannot be .*: allowed is "):
            Region.parse(numbers)


@given(st.one_of(st.none(), st.text(), st.floats(), st.lists(st.floats(), max_size=8), st.binary(max_size=5)))
def test_anything_else_is_no_region(value):
    with pytest.raises(ValueRefused):
        Region.parse(value)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 8))
def test_whole_sensor_is_the_largest_region_with_full_bins(columns, rows, binning):
    if min(columns, rows) < binning:
        return
    region = Region.whole((columns, rows), binning)
    region.check((columns, rows), None)
    assert columns - region.width < binning
    assert rows - region.height < binning


@given(regions())
def test_camera_has_exactly_the_region_it_is_given(region):
    camera = SimulatedCamera()
    camera.binnings = [(s, p) for s in range(1, 9) for p in range(1, 9)]
    driver = PVCAMDriver(CameraPool(_Library(camera)).get("PrimeBSI"), "camera")
    driver.region = region
    taken = camera.rois[0]
    assert (taken.s1, taken.s2, taken.sbin, taken.p1, taken.p2, taken.pbin) == region.astuple()
    assert tuple(reversed(camera.shape())) == region.shape


class _Library:
    """One open camera."""

    def __init__(self, camera):
        self.camera = camera

    def names(self):
        return [self.camera.name]

    def open(self, name):
        self.camera.open()
        return self.camera

    def close(self, camera):
        camera.close()


def test_region_off_the_sensor_is_refused_with_the_largest_ends():
    with pytest.raises(ValueRefused, match=r"s2 up to 99 and p2 up to 49"):
        Region(0, 100, 1, 0, 9, 1).check((100, 50), None)
    with pytest.raises(ValueRefused, match=r"a binning of 1x1, 2x2"):
        Region(0, 99, 4, 0, 39, 4).check((100, 50), [(1, 1), (2, 2)])


def test_options_of_the_configuration_are_checked():
    assert instrument_type("PVCAMInstrument").medium == "camera"
    assert check_options("PVCAMInstrument", {"exposure": 20, "region": [0, 9, 1, 0, 9, 1]}).settings() == {
        "exposure": 20,
        "region": (0, 9, 1, 0, 9, 1),
    }
    with pytest.raises(OptionProblem) as caught:
        check_options(
            "PVCAMInstrument",
            {"exposure": -1, "region": [0, 8, 2, 0, 9, 1], "trigger_mode": "SOFT", "session": "../x", "exposur": 1},
        )
    problems = dict(caught.value.problems)
    assert set(problems) == {"exposure", "region", "trigger_mode", "session", "exposur"}
    assert "7 or 9" in problems["region"]
    assert problems["exposur"] == "there is no such option, did you mean exposure?"


@pytest.fixture
def pyvcam(monkeypatch):
    """The wrapper as it would be with a camera plugged in; `events` tells what happened to the vendor's library."""
    events = []

    class Camera(SimulatedCamera):
        plugged = ("PMPrimeBSI",)

        @staticmethod
        def get_available_camera_names():
            return list(Camera.plugged)

        @classmethod
        def select_camera(cls, name):
            return cls(name)

    pvc = types.ModuleType("pyvcam.pvc")
    pvc.init_pvcam = lambda: events.append("init")
    pvc.uninit_pvcam = lambda: events.append("uninit")
    module = types.ModuleType("pyvcam.camera")
    module.Camera = Camera
    package = types.ModuleType("pyvcam")
    for name, each in (("pyvcam", package), ("pyvcam.pvc", pvc), ("pyvcam.camera", module)):
        monkeypatch.setitem(sys.modules, name, each)
    return types.SimpleNamespace(events=events, camera_class=Camera)


def test_vendor_library_is_initialised_for_the_first_camera_and_given_up_after_the_last(pyvcam):
    library = PvcamLibrary()
    assert library.names() == ["PMPrimeBSI"]
    assert pyvcam.events == ["init", "uninit"]
    camera = library.open("PMPrimeBSI")
    assert library.names() == ["PMPrimeBSI"]
    assert pyvcam.events == ["init", "uninit", "init"]
    library.close(camera)
    assert pyvcam.events[-1] == "uninit"


def test_vendor_camera_takes_frames(pyvcam, tmp_path):
    pool = CameraPool(PvcamLibrary(), tmp_path)
    driver = PVCAMDriver(pool.get("PMPrimeBSI"), "camera")
    driver.connect()
    driver.region = Region(0, 63, 1, 0, 31, 1)
    assert driver.snap().pixels.shape == (32, 64)
    assert driver.identity == "PVCAM PMPrimeBSI, sensor GS2020, serial number A21A203005"
    pool.close()
    assert pyvcam.events[-1] == "uninit"


def test_camera_that_is_not_there_is_told_with_those_that_are(pyvcam):
    with pytest.raises(CameraNotFound, match=r"There is no camera 'pvcamUSB_0'. Present: PMPrimeBSI. Check") as caught:
        PvcamLibrary().open("pvcamUSB_0")
    assert caught.value.present == ("PMPrimeBSI",)
    pyvcam.camera_class.plugged = ()
    with pytest.raises(CameraNotFound, match="No camera is present"):
        PvcamLibrary().open("pvcamUSB_0")
    assert pyvcam.events == ["init", "uninit"] * 2


def test_missing_wrapper_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvcam", None)
    monkeypatch.delitem(sys.modules, "pyvcam.pvc", raising=False)
    with pytest.raises(CameraSdkMissing, match=r"PrimeBSI: pyvcam is missing .*pip install pyvcam") as caught:
        PvcamLibrary().open("PrimeBSI")
    assert caught.value.missing == "pyvcam"


def test_missing_vendor_library_says_what_to_install(monkeypatch, tmp_path):
    package = tmp_path / "pyvcam"
    package.mkdir()
    (package / "__init__.py").touch()
    reason = "libpvcam.so.2: cannot open shared object file: No such file or directory"
    (package / "pvc.py").write_text(f"raise ImportError({reason!r})")
    for name in ("pyvcam", "pyvcam.pvc", "pyvcam.camera"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        CameraSdkMissing, match=r"libpvcam.so.2.*Install the PVCAM SDK and the camera's driver"
    ) as caught:
        PvcamLibrary().open("PrimeBSI")
    assert caught.value.missing == "the PVCAM library"


def frame(number, pixels):
    return Frame(
        pixels,
        frame_number=number,
        dropped_frames=0,
        time=1e9 + number,
        mean=float(pixels.mean()),
        max=int(pixels.max()),
        sum=int(pixels.sum()),
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 128), (100, 33)])
def test_frames_of_any_shape_come_back_from_the_file(tmp_path, shape):
    rng = np.random.default_rng(1)
    frames = [frame(n, rng.integers(0, 65536, shape, np.uint16)) for n in range(1, 8)]
    file = FrameFile(tmp_path / "frames.h5", shape, {"camera": "x"})
    for number, each in enumerate(frames):
        file.write(each)
        if number % 3 == 2:
            assert file.flush() == number + 1
    file.close()
    file.close()
    assert file.closed
    with h5py.File(file.path) as written:
        np.testing.assert_array_equal(written["entry/data/data"], [each.pixels for each in frames])
        np.testing.assert_array_equal(written["entry/frames/sum"], [each.sum for each in frames])
        assert written.attrs["camera"] == "x"


LOOK = """
import h5py, sys
with h5py.File(sys.argv[1], swmr=True) as file:
    print(len(file["entry/data/data"]), file["entry/data/data"][-1].tolist(), len(file["entry/frames/sum"]))
"""


def test_another_program_sees_frames_with_each_flush_and_not_before(tmp_path):
    file = FrameFile(tmp_path / "frames.h5", (2, 2))

    def look():
        # In one process HDF5 has one view of a file, so that readers see what is still in the writer's memory.
        command = [sys.executable, "-c", LOOK, str(file.path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    pixels = np.array([[1, 2], [3, 4]], np.uint16)
    file.write(frame(1, pixels))
    file.flush()
    file.write(frame(2, pixels[::-1]))
    assert look() == "1 [[1, 2], [3, 4]] 1"
    file.flush()
    assert look() == "2 [[3, 4], [1, 2]] 2"
    file.close()


def test_existing_file_is_never_overwritten(tmp_path):
    FrameFile(tmp_path / "frames.h5", (4, 6)).close()
    with pytest.raises(FileExistsError):
        FrameFile(tmp_path / "frames.h5", (4, 6))
