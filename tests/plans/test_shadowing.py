"""The other generation measures beside a plan: what is recorded, what it costs, and that the plan never notices."""

import asyncio
import math
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from asking import Asking
from bluesky import RunEngine
from ophyd.sim import SynAxis
from ophyd.status import Status
from ophyd_async.core import StandardReadable, StandardReadableFormat, soft_signal_rw

from coexistence import Connection, Rank
from plans.shadow import CannotShadow, ShadowPair, shadowed

COLUMNS = (
    "power_v4_power_original_before",
    "power_v4_power",
    "power_v4_power_original_after",
    "power_v4_power_again",
)


class Meter:
    """A synchronous meter whose readings take a while."""

    parent = None

    def __init__(self, name, duration_s=0.0, truth=lambda: 1.0, error=None, units="W"):
        self.name = name
        self.measured = 0
        self._duration_s = duration_s
        self._truth = truth
        self._error = error
        self._units = units
        self._last = None

    def trigger(self):
        status = Status(self)

        def measure():
            self.measured += 1
            if self._error is not None:
                status.set_exception(self._error)
                return
            self._last = {"value": self._truth(), "timestamp": time.time()}
            status.set_finished()

        threading.Timer(self._duration_s, measure).start()
        return status

    def read(self):
        return {f"{self.name}_power": self._last}

    def describe(self):
        return {f"{self.name}_power": {"source": "test", "dtype": "integer", "shape": [], "units": self._units}}


class SlowAxis(SynAxis):
    """Moves for a time."""

    def set(self, value):
        status = Status(self)
        super().set(value)
        threading.Timer(self.duration_s, status.set_finished).start()
        return status


@pytest.fixture
def run_engine():
    return RunEngine(call_returns_result=True)


@pytest.fixture
def axis():
    axis = SlowAxis(name="axis")
    axis.duration_s = 0.1
    return axis


def rows_of(documents, stream="shadow"):
    names = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    return [doc for name, doc in documents if name == "event" and names[doc["descriptor"]] == stream]


def run(run_engine, plan):
    documents = []
    result = run_engine(plan, lambda name, document: documents.append((name, document)))
    return result, documents


def test_the_twin_is_read_between_two_readings_of_the_original(run_engine, axis):
    original, twin = Meter("power", 0.005), Meter("power_v4", 0.005)
    plan = shadowed(bp.scan([original], axis, 0, 1, 6), [(original, twin)], budget=1.0)
    result, documents = run(run_engine, plan)
    assert result.exit_status == "success"
    assert len(rows_of(documents, "primary")) == 6
    rows = rows_of(documents)
    assert len(rows) >= 3
    for row in rows:
        assert row["data"] == dict.fromkeys(COLUMNS, 1.0)
    orders = [sorted(COLUMNS, key=row["timestamps"].get) for row in rows]
    other_way_round = [COLUMNS[place] for place in (1, 0, 3, 2)]
    assert orders[:3] == [list(COLUMNS), other_way_round, list(COLUMNS)]
    start = documents[0][1]
    assert start["shadow"] == {"power_v4": "power"}
    keys = next(doc for name, doc in documents if name == "descriptor" and doc["name"] == "shadow")["data_keys"]
    assert keys["power_v4_power"]["units"] == "W"
    assert keys["power_v4_power"]["dtype"] == "number"


def test_a_device_of_ophyd_async_is_a_twin(run_engine, axis):
    class Async(StandardReadable):
        def __init__(self, name):
            with self.add_children_as_readables(StandardReadableFormat.HINTED_SIGNAL):
                self.power = soft_signal_rw(float, 2.5)
            super().__init__(name=name)
            self.set_name(name, child_name_separator="_")

    original, twin = Meter("power"), Async("power_v4")
    asyncio.run_coroutine_threadsafe(twin.connect(), run_engine.loop).result(5)
    _, documents = run(run_engine, shadowed(bp.scan([original], axis, 0, 1, 3), [(original, twin)]))
    assert {row["data"]["power_v4_power"] for row in rows_of(documents)} == {2.5}


def test_motions_are_used_and_events_cost_no_more_than_the_budget(run_engine, axis):
    axis.duration_s = 1.0
    original, twin = Meter("power", 0.02), Meter("power_v4", 0.02)
    _, documents = run(run_engine, shadowed(bp.scan([original], axis, 0, 1, 2), [(original, twin)], budget=0.0))
    assert len(rows_of(documents)) >= 2, "motions have room for rows"


def test_nothing_is_measured_where_it_would_cost_more_than_the_budget(run_engine):
    original, twin = Meter("power"), Meter("power_v4", 0.3)
    _, documents = run(run_engine, shadowed(bp.count([original], 20), [(original, twin)]))
    assert len(rows_of(documents)) <= 1


def test_waiting_times_of_the_plan_are_used_and_kept(run_engine):
    original, twin = Meter("power", 0.005), Meter("power_v4", 0.005)
    began = time.monotonic()
    _, documents = run(run_engine, shadowed(bp.count([original], 2, delay=0.6), [(original, twin)], budget=0.0))
    assert time.monotonic() - began >= 0.6
    assert len(rows_of(documents)) >= 2


@pytest.mark.parametrize("failing", ["trigger", "read", "describe"])
def test_a_twin_that_fails_is_left_alone_and_the_plan_goes_on(run_engine, axis, failing, caplog):
    original = Meter("power", 0.001)
    twin = Meter("power_v4", 0.001, error=RuntimeError("no reply") if failing == "trigger" else None)

    def fail():
        raise RuntimeError("no reply")

    if failing != "trigger":
        setattr(twin, failing, fail)
    sound = Meter("other", 0.001)
    pairs = [(original, twin), (original, sound)]
    result, documents = run(run_engine, shadowed(bp.scan([original], axis, 0, 1, 8), pairs, budget=1.0))
    assert result.exit_status == "success"
    assert len(rows_of(documents, "primary")) == 8
    assert twin.measured <= 6, "two readings a row, three rows"
    assert "power_v4 no longer shadows power in this run: no reply" in caplog.text
    rows = rows_of(documents)
    assert rows
    assert all("power_v4_power" not in row["data"] and row["data"]["other_power"] == 1.0 for row in rows)


def test_a_reading_that_fails_later_is_no_number(run_engine, axis):
    values = iter([1.0, 1.5, 2.0, 2.5] + [RuntimeError("lost")] * 6)

    def truth():
        value = next(values, 3.0)
        if isinstance(value, Exception):
            raise value
        return value

    class Failing(Meter):
        def read(self):
            return {f"{self.name}_power": {"value": truth(), "timestamp": time.time()}}

    original, twin, sound = Meter("power"), Failing("power_v4"), Meter("other")
    pairs = [(original, twin), (original, sound)]
    _, documents = run(run_engine, shadowed(bp.scan([original], axis, 0, 1, 8), pairs, budget=1.0))
    column = [row["data"]["power_v4_power"] for row in rows_of(documents)]
    assert column[:2] == [1.0, 2.0]
    assert all(math.isnan(value) for value in column[2:])
    kept = [row["data"]["power_v4_power_original_after"] for row in rows_of(documents)]
    assert kept[:5] == [1.0] * 5, "that the twin failed is part of the evidence"
    assert all(row["data"]["other_power"] == 1.0 for row in rows_of(documents))


def test_a_failure_of_the_experiment_stays_one(run_engine, axis):
    class Broken(SlowAxis):
        def set(self, value):
            status = Status(self)
            threading.Timer(0.05, status.set_exception, [RuntimeError("the stage is stuck")]).start()
            return status

    original, twin = Meter("power", 0.02), Meter("power_v4", 0.02)
    broken = Broken(name="broken")
    seen = []

    def plan():
        @bpp.run_decorator()
        def inner():
            yield from bps.trigger_and_read([original])
            try:
                yield from bps.mv(broken, 1)
            except Exception as error:
                seen.append(error)
                raise

        return (yield from inner())

    documents = []
    with pytest.raises(Exception, match=r"stuck|FailedStatus|Status"):
        run_engine(shadowed(plan(), [(original, twin)]), lambda name, document: documents.append((name, document)))
    assert len(seen) == 1
    assert documents[-1][0] == "stop"
    assert documents[-1][1]["exit_status"] == "fail"
    assert run_engine.state == "idle"


def test_pausing_and_resuming_gives_every_event_once(run_engine, axis):
    original, twin = Meter("power", 0.005), Meter("power_v4", 0.005)
    documents, asking = [], Asking()

    def pause_at_third(name, document):
        documents.append((name, document))
        if len(rows_of(documents, "primary")) == 3 and name == "event" and "power_power" in document["data"]:
            asking.ask(run_engine.request_pause)

    plan = shadowed(asking.awaited(bp.scan([original], axis, 0, 1, 6)), [(original, twin)])
    with pytest.raises(Exception, match="resum"):
        run_engine(plan, pause_at_third)
    run_engine.resume()
    assert sorted({row["seq_num"] for row in rows_of(documents, "primary")}) == [1, 2, 3, 4, 5, 6]
    assert documents[-1][1]["exit_status"] == "success"
    assert rows_of(documents)


def test_several_runs_and_baselines_are_told_apart(run_engine, axis):
    original, twin, unread = Meter("power"), Meter("power_v4"), Meter("elsewhere")

    def plan():
        for _ in range(2):
            yield from bpp.baseline_wrapper(bp.scan([original], axis, 0, 1, 3), [unread])

    pairs = [(original, twin), (unread, Meter("elsewhere_v4"))]
    _, documents = run(run_engine, shadowed(plan(), pairs))
    starts = [document for name, document in documents if name == "start"]
    assert len(starts) == 2
    for row in rows_of(documents):
        assert set(row["data"]) == set(COLUMNS)
    descriptors = [document for name, document in documents if name == "descriptor" and document["name"] == "shadow"]
    assert {document["run_start"] for document in descriptors} == {start["uid"] for start in starts}


def test_a_script_may_choose_other_pairs_than_its_session(run_engine, axis):
    original, twin, other = Meter("power"), Meter("power_v4"), Meter("other")
    inner = shadowed(bp.scan([original], axis, 0, 1, 4), [(original, twin)], budget=1.0)
    _, documents = run(run_engine, shadowed(inner, [(original, twin), (original, other)], budget=1.0))
    assert documents[0][1]["shadow"] == {"power_v4": "power"}
    assert rows_of(documents)
    assert all(set(row["data"]) == set(COLUMNS) for row in rows_of(documents))


def test_the_plan_is_untouched_without_pairs_and_its_result_comes_through(run_engine):
    def plan():
        yield from bps.null()
        return 42

    same = plan()
    assert shadowed(same, []) is same
    result = run_engine(shadowed(plan(), [(Meter("a"), Meter("b"))]))
    assert result.plan_result == 42


def test_shadow_requests_wait_for_everybody_elses(run_engine, axis):
    seen = []

    class OnWire(Meter):
        def __init__(self, name):
            super().__init__(name)
            self.connection = Connection(lambda: None, name)

        def trigger(self):
            seen.append((self.name, self.connection.rank))
            return super().trigger()

    original, twin = OnWire("power"), OnWire("power_v4")
    run(run_engine, shadowed(bp.scan([original], axis, 0, 1, 3), [(original, twin)]))
    assert {rank for name, rank in seen if name == "power_v4"} == {Rank.BACKGROUND}
    assert {rank for name, rank in seen if name == "power"} == {Rank.BACKGROUND, Rank.NORMAL}
    assert original.connection.rank is Rank.NORMAL


def test_what_cannot_be_compared_is_refused_with_the_reason():
    class Camera(Meter):
        def collect_asset_docs(self):
            return []

    meter = Meter("power")
    with pytest.raises(CannotShadow) as refusal:
        shadowed(iter([]), [(meter, meter)])
    assert str(refusal.value) == "'power' cannot be the shadow of 'power': they are the same device"
    with pytest.raises(CannotShadow) as refusal:
        ShadowPair(Camera("camera"), Camera("camera_v4"))
    assert str(refusal.value) == (
        "'camera_v4' cannot be the shadow of 'camera': cameras make images, and exposing twice is no comparison; "
        "compare one image of each before changing over"
    )

    class Nothing:
        name = "shutter"

    with pytest.raises(CannotShadow, match="'shutter' cannot be read"):
        ShadowPair(meter, Nothing())
    with pytest.raises(ValueError, match="share of the run's time between 0 and 1, not 5"):
        shadowed(iter([]), [(meter, Meter("b"))], budget=5)
