"""The runtime of both generations, without bluesky: starting, failing, hanging, restarting, health and shutdown."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from coexistence import (
    DualRuntimeManager,
    GenerationState,
    InstrumentState,
    RestartPolicy,
    RuntimeLimits,
    RuntimeState,
    SharedResources,
)
from coexistence.config import DualConfig
from coexistence.runtime import ConnectTimeout, StopTimeout, UnknownName, WrongState

HANGS_FOR_S = 0.3
LIMITS = RuntimeLimits(
    announce_s=20, plan_s=20, v4_stop_s=20, v2_stop_s=20, wires_s=20, connect_grace_s=0.05, health_s=20
)
"""Nothing hangs: a busy machine may take its time."""
SHORT_LIMITS = {
    name: replace(LIMITS, **{name: HANGS_FOR_S})
    for name in ("announce_s", "plan_s", "v4_stop_s", "v2_stop_s", "wires_s", "health_s")
}
"""By the step that hangs."""
HANGING_S = 5.0
"""What one hanging step may take of the time of all, with a margin for a busy machine."""


class Blocking:
    """A v2 instrument whose calls do what the test says, and are noted."""

    def __init__(self, name: str, *, connect_timeout: float = 20.0, **actions: Callable[[], object]) -> None:
        self.name = name
        self.connect_timeout = connect_timeout
        self.actions = actions
        self.calls: list[str] = []
        self.fresh: list[bool] = []

    def _do(self, what: str) -> object:
        self.calls.append(what)
        return self.actions[what]() if what in self.actions else None

    def start(self, fresh: bool) -> None:
        self.fresh.append(fresh)
        self._do("start")

    def stop(self) -> None:
        self._do("stop")

    def close(self) -> None:
        self._do("close")

    def health(self) -> str:
        return str(self._do("health") or "well")


class Asynchronous(Blocking):
    """A v4 instrument likewise."""

    async def _await(self, what: str) -> object:
        result = self._do(what)
        return await result if isinstance(result, Awaitable) else result

    async def start(self, fresh: bool) -> None:
        self.fresh.append(fresh)
        await self._await("start")

    async def stop(self) -> None:
        await self._await("stop")

    async def close(self) -> None:
        await self._await("close")

    async def health(self) -> str:
        return str(await self._await("health") or "well")


def failing(message: str = "no answer") -> object:
    raise ConnectionError(message)


def for_ever() -> Awaitable[None]:
    return asyncio.sleep(3600)


@pytest.fixture
def hang() -> Iterator[Callable[[], object]]:
    """Return what blocks until the end of the test."""
    over = threading.Event()
    yield over.wait
    over.set()


@contextlib.contextmanager
def running(**settings) -> Iterator[DualRuntimeManager]:
    settings.setdefault("limits", LIMITS)
    with DualRuntimeManager(**settings) as manager:
        yield manager
    assert manager.state is RuntimeState.STOPPED


def test_all_is_told_before_starting_and_restarting_return():
    told: list[tuple[str, str]] = []

    def listen(transition):
        if transition.after in (InstrumentState.RUNNING, InstrumentState.FAILED):
            time.sleep(0.02)  # on the instrument's thread, or on the loop's
            told.append((transition.subject, transition.after.value))

    manager = DualRuntimeManager(
        v2=[Blocking("old"), Blocking("gone", start=failing)],
        v4=[Asynchronous("new")],
        limits=LIMITS,
    )
    manager.add_listener(listen)
    with manager:
        assert sorted(told) == [("gone", "failed"), ("new", "running"), ("old", "running")]
        manager.restart("old")
        assert told[3:] == [("old", "running")]


def test_both_generations_start_and_stop_in_order():
    order: list[str] = []
    old = Blocking("old", stop=lambda: order.append("old stops"), close=lambda: order.append("old closes"))
    new = Asynchronous("new", stop=lambda: order.append("new stops"), close=lambda: order.append("new closes"))

    class Wires:
        def held(self):
            return []

        def close(self):
            order.append("wires close")

    manager = DualRuntimeManager(
        v2=[old], v4=[new], resources=Wires(), limits=LIMITS, end_plan=lambda _: order.append("plan ends")
    )
    manager.add_shutdown_listener(lambda: order.append("announced"))
    assert manager.state is RuntimeState.UNINITIALIZED
    manager.start()
    assert manager.state is RuntimeState.RUNNING
    assert {name: status.state for name, status in manager.status.items()} == {
        "v2": GenerationState.ACTIVE,
        "v4": GenerationState.ACTIVE,
    }
    report = manager.shutdown()
    assert manager.state is RuntimeState.STOPPED
    assert order == [
        "announced",
        "plan ends",
        "new stops",
        "new closes",
        "old stops",
        "old closes",
        "wires close",
    ]
    assert report is not None
    assert list(report.steps) == ["announce", "plan", "v4", "v2", "wires"]
    assert report.problems == report.left_behind == ()


def test_every_transition_is_told_and_logged(caplog):
    told = []
    manager = DualRuntimeManager(v2=[Blocking("old")], limits=LIMITS)
    manager.add_listener(lambda transition: told.append((transition.subject, transition.after.value)))
    with caplog.at_level("INFO", "coexistence.runtime"), manager:
        pass
    assert told == [
        ("runtime", "starting"),
        ("old", "starting"),
        ("old", "running"),
        ("runtime", "running"),
        ("runtime", "shutting down"),
        ("old", "stopping"),
        ("old", "stopped"),
        ("runtime", "stopped"),
    ]
    assert "old: starting -> running" in caplog.text


def test_a_listener_that_fails_keeps_nobody_from_hearing(caplog):
    heard = []
    manager = DualRuntimeManager(limits=LIMITS)
    manager.add_listener(lambda _: failing())
    manager.add_listener(heard.append)
    manager.add_shutdown_listener(failing)
    manager.add_shutdown_listener(lambda: heard.append("shutdown"))
    with manager:
        pass
    assert len(heard) == 5
    assert "A listener failed" in caplog.text


@pytest.mark.parametrize("make", [Blocking, Asynchronous])
def test_one_failing_instrument_does_not_stop_the_others(make):
    generation = "v2" if make is Blocking else "v4"
    with running(**{generation: [make("good"), make("bad", start=failing)]}) as manager:
        status = manager.status[generation]
        assert (status.state, status.running) == (GenerationState.ACTIVE, ("good",))
        assert status.failed == {"bad": "no answer"}
        assert isinstance(manager.instruments["bad"].error, ConnectionError)


def test_a_generation_of_which_nothing_runs_is_in_error_and_the_other_active():
    with running(v2=[Blocking("bad", start=failing)], v4=[Asynchronous("good")]) as manager:
        states = {name: status.state for name, status in manager.status.items()}
    assert states == {"v2": GenerationState.ERROR, "v4": GenerationState.ACTIVE}


def test_a_disabled_generation_is_not_started():
    config = DualConfig.from_mapping({"v2": {"enabled": False}})
    old = Blocking("old")
    with running(config=config, v2=[old], v4=[Asynchronous("new")]) as manager:
        assert manager.status["v2"].state is GenerationState.INACTIVE
    assert old.calls == []


@pytest.mark.parametrize("generation", ["v2", "v4"])
def test_an_instrument_that_hangs_while_connecting_costs_its_own_time_and_no_more(generation: str, hang):
    hangs: Blocking = {"v2": Blocking, "v4": Asynchronous}[generation](
        "hangs", connect_timeout=HANGS_FOR_S, start=hang if generation == "v2" else for_ever
    )
    made = {"v2": [Blocking("old")], "v4": [Asynchronous("new")]}
    made[generation].append(hangs)
    began = time.monotonic()
    with running(**made) as manager:
        assert time.monotonic() - began < HANGS_FOR_S + HANGING_S
        error = manager.instruments["hangs"].error
        assert isinstance(error, ConnectTimeout)
        assert str(error) == ("it did not connect within 0.3 s. Check that it is on, or raise its connect_timeout.")
        assert manager.instruments["old"].state is manager.instruments["new"].state is InstrumentState.RUNNING
        assert manager.left_behind == (("connect hangs",) if generation == "v2" else ())
    assert hangs.calls[-1] == "close"


def test_many_hanging_v2_instruments_use_up_no_thread_of_v4(hang):
    hanging = [Blocking(f"hangs_{number}", connect_timeout=HANGS_FOR_S, start=hang) for number in range(40)]

    def in_a_thread() -> Awaitable[None]:
        return asyncio.to_thread(time.sleep, 0.01)

    with running(v2=hanging, v4=[Asynchronous("new", start=in_a_thread)]) as manager:
        assert manager.instruments["new"].state is InstrumentState.RUNNING
        assert len(manager.left_behind) == 40


@pytest.mark.parametrize("generation", ["v2", "v4"])
def test_an_instrument_that_hangs_while_stopping_costs_its_own_time_and_no_more(generation: str, hang, wait_for):
    hangs = {"v2": Blocking("hangs", stop=hang), "v4": Asynchronous("hangs", stop=for_ever)}[generation]
    made = {"v2": [Blocking("old")], "v4": [Asynchronous("new")]}
    made[generation].append(hangs)
    with running(limits=SHORT_LIMITS[f"{generation}_stop_s"], **made) as manager:
        pass
    report = manager.shutdown_report
    assert report.duration_s < HANGS_FOR_S + HANGING_S
    assert "hangs did not stop in order: it did not stop within 0.3 s." in "\n".join(report.problems)
    assert isinstance(manager.instruments["hangs"].error, StopTimeout)
    wait_for(lambda: made["v2"][0].calls[-1] == made["v4"][0].calls[-1] == "close")
    assert ("stop hangs" in report.left_behind) == (generation == "v2")


def test_a_v4_instrument_that_blocks_the_loop_does_not_keep_the_runtime_from_stopping(hang):
    limits = replace(SHORT_LIMITS["v4_stop_s"], wires_s=HANGS_FOR_S)
    with running(v2=[Blocking("old")], v4=[Asynchronous("blocks", stop=hang)], limits=limits) as manager:
        pass
    assert manager.shutdown_report.duration_s < 3 * HANGS_FOR_S + HANGING_S * 2


@pytest.mark.parametrize("step", ["announce", "plan", "wires"])
def test_any_step_of_a_shutdown_may_hang(step: str, hang):
    class Wires:
        def held(self):
            return []

        def close(self):
            if step == "wires":
                hang()

    old = Blocking("old")
    manager = DualRuntimeManager(
        v2=[old],
        resources=Wires(),
        limits=SHORT_LIMITS[f"{step}_s"],
        end_plan=lambda _: hang() if step == "plan" else None,
    )
    if step == "announce":
        manager.add_shutdown_listener(hang)
    with manager:
        pass
    assert manager.state is RuntimeState.STOPPED
    assert manager.shutdown_report.duration_s < HANGS_FOR_S + HANGING_S
    assert len(manager.shutdown_report.problems) == len(manager.left_behind) == 1
    assert old.calls == ["start", "stop", "close"]


def test_a_time_limit_for_all_steps_is_kept(hang):
    limits = RuntimeLimits(v2_stop_s=30, v4_stop_s=30)
    manager = DualRuntimeManager(
        v2=[Blocking("old", stop=hang)], v4=[Asynchronous("new", stop=for_ever)], limits=limits
    )
    manager.start()
    report = manager.shutdown(timeout=0.3)
    assert manager.state is RuntimeState.STOPPED
    assert report.duration_s < 0.3 + HANGING_S


def test_a_runtime_can_be_shut_down_in_every_state(hang):
    untouched = DualRuntimeManager(v2=[Blocking("old")], limits=LIMITS)
    untouched.shutdown()
    assert untouched.state is RuntimeState.STOPPED
    starting = DualRuntimeManager(v2=[Blocking("old", start=hang, connect_timeout=30)], limits=LIMITS)
    starting.start(wait=0.05)
    assert starting.state is RuntimeState.STARTING
    assert starting.shutdown().duration_s < HANGING_S
    assert starting.state is RuntimeState.STOPPED
    assert starting.wait_started(0)
    assert starting.shutdown() is starting.shutdown_report
    with pytest.raises(WrongState, match=r"cannot start while the runtime is stopped\. .* make a new one"):
        starting.start()


def test_two_threads_may_shut_down_at_once():
    slow = Blocking("slow", stop=lambda: time.sleep(0.2))
    manager = DualRuntimeManager(v2=[slow], limits=LIMITS)
    manager.start()
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(manager.shutdown())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slow.calls == ["start", "stop", "close"]
    assert {id(report) for report in reports} == {id(manager.shutdown_report)}


async def test_a_shutdown_on_the_loop_of_v4_goes_on_by_itself():
    loop = asyncio.get_running_loop()
    manager = DualRuntimeManager(v4=[Asynchronous("new")], loop=loop, limits=LIMITS)
    await asyncio.to_thread(manager.start)
    assert manager.shutdown() is None
    assert await asyncio.to_thread(manager.wait_stopped, 20)
    assert manager.instruments["new"].state is InstrumentState.STOPPED


def test_slow_instruments_do_not_hold_who_waits_only_a_moment(wait_for):
    ready = threading.Event()
    told = []
    manager = DualRuntimeManager(v2=[Blocking("slow", start=ready.wait)], v4=[Asynchronous("quick")], limits=LIMITS)
    manager.add_listener(lambda transition: told.append((transition.subject, transition.after)))
    manager.start(wait=0.05)
    assert manager.state is RuntimeState.STARTING
    wait_for(lambda: manager.instruments["quick"].state is InstrumentState.RUNNING)
    ready.set()
    assert manager.wait_started(20)
    assert ("slow", InstrumentState.RUNNING) in told
    assert manager.state is RuntimeState.RUNNING
    manager.shutdown()


def test_one_that_comes_up_after_it_was_given_up_is_closed_again(wait_for):
    ready = threading.Event()
    late = Blocking("late", connect_timeout=HANGS_FOR_S, start=ready.wait)
    with running(v2=[late]) as manager:
        assert manager.instruments["late"].state is InstrumentState.FAILED
        ready.set()
        wait_for(lambda: late.calls == ["start", "close"])
        assert manager.instruments["late"].state is InstrumentState.FAILED


def test_start_that_comes_up_late_does_not_close_what_a_restart_has_started_in_its_place(wait_for):
    ready, came = threading.Event(), threading.Event()

    def start() -> None:
        if len(late.fresh) == 1:
            ready.wait()
            came.set()

    late = Blocking("late", connect_timeout=HANGS_FOR_S, start=start)
    with running(v2=[late]) as manager:
        assert manager.instruments["late"].state is InstrumentState.FAILED
        late.connect_timeout = 20.0
        assert manager.restart("late")[0].state is InstrumentState.RUNNING
        ready.set()
        assert came.wait(5.0)
        wait_for(lambda: not manager._generations["v2"].left_behind)
    assert late.calls.count("close") == 1


def test_one_instrument_is_restarted_while_the_others_go_on():
    old, other, new = Blocking("old"), Blocking("other"), Asynchronous("new")
    with running(v2=[old, other], v4=[new]) as manager:
        (status,) = manager.restart("old")
        assert (status.state, status.restarts) == (InstrumentState.RUNNING, 1)
        assert old.calls == ["start", "stop", "start"]
        assert old.fresh == [False, False]
        assert other.calls == new.calls == ["start"]
        assert [each.name for each in manager.restart("v4")] == ["new"]
        assert new.calls == ["start", "stop", "start"]


def test_a_hung_or_failed_instrument_is_made_anew(hang):
    outcomes = iter([failing, lambda: None])
    failed, hung = Blocking("failed", start=lambda: next(outcomes)()), Blocking("hung", stop=hang)
    with running(v2=[failed, hung], limits=SHORT_LIMITS["v2_stop_s"]) as manager:
        states = {each.name: each.state for each in manager.restart("v2")}
        assert states == {"failed": InstrumentState.RUNNING, "hung": InstrumentState.RUNNING}
        assert failed.fresh == hung.fresh == [False, True]
        assert "stop hung" in manager.left_behind


def test_restarting_needs_a_name_and_a_runtime_that_runs():
    with (
        running(v2=[Blocking("power_v2")]) as manager,
        pytest.raises(
            UnknownName, match=r"no instrument and no generation is called 'powerv2'; did you mean 'power_v2'\?"
        ),
    ):
        manager.restart("powerv2")
    with pytest.raises(WrongState, match="cannot restart v2 while the runtime is stopped"):
        manager.restart("v2")


def test_health_tells_of_each_instrument_and_of_the_process(hang, wait_for):
    instruments = [
        Blocking("good", health=lambda: "Newport 1830-C"),
        Blocking("ill", health=lambda: failing("the lamp is broken")),
        Blocking("hangs", health=hang),
        Blocking("failed", start=failing),
    ]
    new = [Asynchronous("new"), Asynchronous("slow", health=for_ever)]
    with running(v2=instruments, v4=new, limits=SHORT_LIMITS["health_s"]) as manager:
        checks = []

        def all_others_answered() -> bool:  # a busy machine makes those late that do not hang
            began = time.monotonic()
            checks.append(manager.check_health())
            assert time.monotonic() - began < HANGS_FOR_S + HANGING_S
            answers = checks[-1].instruments
            return not any("did not say" in answers[name].detail for name in ("good", "ill", "new"))

        wait_for(all_others_answered, timeout=20.0)
        health = checks[-1]
        again = manager.check_health()
    told = {name: (each.healthy, each.detail) for name, each in health.instruments.items()}
    assert told["good"] == (True, "Newport 1830-C")
    assert told["ill"] == (False, "the lamp is broken")
    assert told["new"] == (True, "well")
    assert told["failed"] == (False, "no answer")
    assert "did not say how it is within 0.3 s" in told["hangs"][1]
    assert "did not say how it is within 0.3 s" in told["slow"][1]
    assert instruments[2].calls.count("health") == 1, "one that hangs is not asked once more"
    assert not again.instruments["hangs"].healthy
    assert health.instruments["new"].latency_s < HANGS_FOR_S, "its own time, not that of the one that hangs beside it"
    assert not health.healthy
    assert health.process.memory_bytes > 1e6
    assert health.process.threads >= 2
    assert health.as_json()["instruments"]["good"]["state"] == "running"


def test_limits_that_are_exceeded_warn():
    limits = RuntimeLimits(memory_bytes=1000, cpu_percent=0.001)
    with running(limits=limits) as manager:
        used = time.process_time()
        while time.process_time() - used < 0.05:
            pass
        warnings = "\n".join(manager.check_health().warnings)
    assert "of memory, more than 0 MiB: images kept in variables are the usual reason" in warnings
    assert "of a core, more than 0.001 %: look for a callback or a plan that never waits" in warnings


def test_limits_come_from_the_configuration():
    config = DualConfig.from_mapping(
        {"v2": {"shutdown_timeout": 3}, "application": {"cpu_limit_percent": 50, "memory_limit_mib": 100}}
    )
    limits = RuntimeLimits.of(config)
    assert (limits.v2_stop_s, limits.v4_stop_s) == (3, 5)
    assert (limits.cpu_percent, limits.memory_bytes) == (50, 100 * 2**20)


def test_a_supervisor_restarts_what_failed_with_growing_pauses(wait_for):
    outcomes = iter([failing, failing, failing, lambda: None])
    began: list[float] = []

    def start() -> None:
        began.append(time.monotonic())
        next(outcomes)()

    with running(v2=[Blocking("flaky", start=start)]) as manager:
        manager.supervise(RestartPolicy(first_pause_s=0.05, factor=2, attempts=5))
        wait_for(lambda: manager.instruments["flaky"].state is InstrumentState.RUNNING)
        pauses = [later - earlier for earlier, later in itertools.pairwise(began[1:])]
    assert [pause > expected for pause, expected in zip(pauses, [0.1, 0.2], strict=True)] == [True, True]


def test_a_supervisor_gives_up_after_its_attempts(wait_for, caplog):
    dead = Blocking("dead", start=failing)
    with running(v2=[dead]) as manager:
        supervisor = manager.supervise(RestartPolicy(first_pause_s=0.01, attempts=3))
        wait_for(lambda: supervisor.given_up == {"dead"})
        assert len(dead.calls) == 1 + 3 * 1
        wait_for(lambda: "dead was restarted 3 times in vain and is given up" in caplog.text)


def test_a_supervisor_that_checks_health_restarts_what_is_ill_twice(wait_for):
    well = threading.Event()
    ill = Blocking("ill", health=lambda: "well" if well.is_set() else failing("odd"))
    with running(v2=[ill]) as manager:
        manager.supervise(RestartPolicy(first_pause_s=0.01, check_interval_s=0.03, attempts=100))
        wait_for(lambda: manager.instruments["ill"].restarts >= 2)
        well.set()


SERVICE = """
import sys, time
from coexistence import DualRuntimeManager
from coexistence.runtime import exit_on_sigterm
class Lamp:
    name, connect_timeout = "lamp", 20.0
    def start(self, fresh): print("on", flush=True)
    def stop(self): print("off", flush=True)
    def close(self): pass
    def health(self): return "burns"
exit_on_sigterm()
with DualRuntimeManager(v2=[Lamp()]) as manager:
    print("runs", flush=True)
    time.sleep(60)
"""


def test_sigterm_ends_a_service_in_order():
    with subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert [service.stdout.readline() for _ in range(2)] == ["on\n", "runs\n"]
        service.send_signal(signal.SIGTERM)
        output, _ = service.communicate(timeout=20)
    assert output == "off\n"
    assert service.returncode == 143


def test_starting_and_stopping_again_and_again_leaves_nothing(no_descriptor_left_behind, wait_for):
    before = threading.active_count()
    for _ in range(20):
        with running(v2=[Blocking("old")], v4=[Asynchronous("new")], resources=SharedResources()):
            pass
    wait_for(lambda: threading.active_count() == before)


def test_the_runtime_knows_neither_bluesky_nor_ophyd():
    program = "import sys, coexistence.runtime; print({'bluesky', 'ophyd', 'ophyd_async', 'psutil'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "set()\n"
