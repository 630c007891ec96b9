"""Fixtures for every test: nothing may be left behind, and the event loop's largest gap can be measured."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine only.
settings.register_profile("tandem", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tandem")

# Threads that third-party libraries start once and keep for the life of the process.
LONG_LIVED_THREADS = (
    "bluesky-run-engine",  # event loop of bluesky's RunEngine, one for the process
    "asyncio_",  # default executor of that loop
    "ThreadPoolExecutor",  # executors of third-party libraries, joined at exit
    "Dummy-",  # a foreign thread that Python code once ran on
    "IPythonHistorySavingThread",
    "tqdm",
)
SETTLING_TIME_S = 10.0


# Files whose tests use one catalog in turn, by group: a server costs ten seconds of processor time.
SHARING_A_CATALOG = {
    "commands": ("profiles", ("cli", "control", "repeated_by_script", "run_plans", "shell")),
    "sessions": (
        "profiles",
        (
            "camera_images",
            "session",
            "session_display",
            "session_plans",
            "session_shutdown",
            "session_wire_loss",
            "shadow_report",
            "watch",
            "wire_record",
        ),
    ),
    "records": (
        "catalog",
        (
            "catalog",
            "checksums",
            "columns",
            "compact",
            "external_server",
            "faulty_server",
            "images",
            "notes",
            "rewriting",
        ),
    ),
}
GROUP_OF_FILE = {
    f"tests/{folder}/test_{name}.py": group for group, (folder, names) in SHARING_A_CATALOG.items() for name in names
}


def pytest_configure(config: pytest.Config) -> None:
    # By default the files with the fewest tests come last, and those are the longest ones.
    config.option.loadscopereorder = False
    # Whatever is imported stays: looking for garbage among it takes a tenth of the collection, and of each test later.
    gc.disable()
    # A suite started in the background of a script inherits that Ctrl-C is ignored, and so would its children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _scope(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return GROUP_OF_FILE.get(file, file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left alone with one at the end.

    Tests of one server get time for its start.
    """
    long = {_scope(item.nodeid) for item in items if item.get_closest_marker("server")}
    for item in items:
        # The first one waits for the server too, which has taken 44 s to start on a busy machine.
        if "data_dir" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(180))
    # Stable, so that the tests of a file, and the files of a group, stay together.
    items.sort(key=lambda item: (_scope(item.nodeid) not in SHARING_A_CATALOG, _scope(item.nodeid) not in long))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keep on one worker what shares a catalog, beside what is in one file."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class SharedCatalogScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    return SharedCatalogScheduling(config, log)


def _is_long_lived(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    module = getattr(target, "__module__", "") or ""
    return thread.name.startswith(LONG_LIVED_THREADS) or module.startswith(("ophyd.", "bluesky.", "tqdm."))


def _threads_since(before: set[threading.Thread]) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t not in before and t.is_alive() and not _is_long_lived(t)]


def _wait_until_empty(leftovers: Callable[[], list[object]]) -> list[object]:
    deadline = time.monotonic() + SETTLING_TIME_S
    while (found := leftovers()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread running."""
    before = set(threading.enumerate())
    yield
    left = _wait_until_empty(lambda: list(_threads_since(before)))
    assert not left, f"threads left behind: {left}"


def _run_engine_loops() -> dict[asyncio.AbstractEventLoop, threading.Thread]:
    run_engine = sys.modules.get("bluesky.run_engine")
    return {} if run_engine is None else dict(run_engine._ensure_event_loop_running.loop_to_thread)


async def _cancel_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def run_engines_end_with_their_test() -> Iterator[None]:
    """End the event loops of RunEngines made in a test: bluesky never does, and hundreds use up the descriptors."""
    before = _run_engine_loops()
    yield
    for loop, thread in _run_engine_loops().items():
        if loop in before or not loop.is_running():
            continue
        for step in (_cancel_tasks, loop.shutdown_default_executor):
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(step(), loop).result(SETTLING_TIME_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SETTLING_TIME_S)
        if not thread.is_alive():
            loop.close()


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail an asynchronous test that leaves a task running on its loop."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


def _open_descriptors() -> dict[int, str]:
    directory = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = {}
    for entry in os.listdir(directory):
        try:
            found[int(entry)] = os.readlink(f"{directory}/{entry}")
        except OSError:
            continue  # the listing's own descriptor
    return found


@pytest.fixture
def no_descriptor_left_behind() -> Iterator[None]:
    """Fail a test that leaves a file descriptor open."""
    gc.collect()
    before = _open_descriptors()
    yield
    gc.collect()

    def leftovers() -> list[object]:
        now = _open_descriptors()
        return [f"{fd} -> {target}" for fd, target in now.items() if before.get(fd) != target]

    left = _wait_until_empty(leftovers)
    assert not left, f"descriptors left behind: {left}"


@pytest.fixture
def no_process_left_behind() -> Iterator[None]:
    """Fail a test that leaves a child process running."""
    before = set(psutil.Process().children(recursive=True))
    yield

    def leftovers() -> list[object]:
        return [child for child in set(psutil.Process().children(recursive=True)) - before if runs(child)]

    def runs(child: psutil.Process) -> bool:
        try:
            return child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    left = _wait_until_empty(leftovers)
    assert not left, f"processes left behind: {left}"


class LoopGapMeter:
    """Measures how long an event loop was unable to run anything.

    Parameters
    ----------
    loop
        The running loop to watch; it may run on another thread.
    interval
        Time between two looks in seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float = 0.002) -> None:
        self._loop = loop
        self._interval = interval
        self._last: float | None = None
        self._running = False
        self.largest_gap_s = 0.0

    def __enter__(self) -> "LoopGapMeter":
        self._running = True
        self._loop.call_soon_threadsafe(self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        if self._last is not None:  # the gap that is still open counts as well
            self.largest_gap_s = max(self.largest_gap_s, time.monotonic() - self._last - self._interval)

    def _tick(self) -> None:
        now = time.monotonic()
        if self._last is not None:
            self.largest_gap_s = max(self.largest_gap_s, now - self._last - self._interval)
        self._last = now
        if self._running:
            self._loop.call_later(self._interval, self._tick)


@pytest.fixture
def loop_gap() -> type[LoopGapMeter]:
    """Return the meter: `with loop_gap(loop) as gap: ...` then `gap.largest_gap_s`."""
    return LoopGapMeter


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Return `wait_for(condition, timeout=15.0)`: waits until the condition holds, or fails the test."""

    def wait_for_condition(condition: Callable[[], object], timeout: float = 15.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"{condition} did not become true within {timeout} s"
            time.sleep(0.005)

    return wait_for_condition


@pytest.fixture
def repository() -> Path:
    """Return the folder this clone lies in."""
    return Path(__file__).parent.parent


@pytest.fixture
def typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return `typed(*arguments)`: does what `tandem` with these arguments does, without the seconds a process takes."""
    from profiles.cli import main

    def type_it(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = ["tandem", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int)
        printed, told = capsys.readouterr()
        return subprocess.CompletedProcess(command, code, printed, told)

    return type_it
