"""A run tells which of its points were troubled by the wires, and an untroubled one is as if nobody had looked."""

import sys
import threading
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine, RunEngineInterrupted
from bluesky.plans import count
from ophyd.sim import SynSignal

from coexistence import CommandTimeout, SharedResources
from coexistence.config import DualConfig
from profiles.session import Session
from profiles.wire_record import STREAM, WireRecord

sys.path.insert(0, str(Path(__file__).parent.parent / "coexistence"))
from ptys import PtyInstrument, echo


class LateInstrument(PtyInstrument):
    """Keeps each reply to itself while it may not speak, and gives it once, too late, when it may again."""

    def __init__(self, **options) -> None:
        self.may_speak = threading.Event()
        self.may_speak.set()
        super().__init__(self._in_time, **options)

    def _in_time(self, command: bytes) -> bytes | None:
        self.may_speak.wait()
        return echo(command)

    def stop(self) -> None:
        self.may_speak.set()
        super().stop()


@pytest.fixture
def instrument(tmp_path):
    with LateInstrument(link=tmp_path / "meter") as instrument:
        yield instrument


@pytest.fixture
def resources():
    resources = SharedResources()
    yield resources
    resources.close()


@pytest.fixture
def port(resources, instrument):
    return resources.serial.get(instrument.path, late_reply_limit=5.0)


@pytest.fixture
def documents():
    return []


@pytest.fixture
def RE(resources, documents):  # noqa: N802 - the name everybody uses
    engine = RunEngine({})
    record = WireRecord(resources)
    engine.preprocessors.append(record)
    engine.subscribe(record.take)
    engine.subscribe(lambda name, document: documents.append((name, document)))
    return engine


def patient_reading(port, instrument, times=2):
    """A device whose driver asks again after a timeout, by when the instrument may answer, too late."""

    def ask():
        for attempt in range(times):
            try:
                in_time = instrument.may_speak.is_set()
                return float(len(port.query(b"Q7?\n", owner="meter", timeout=10.0 if in_time else 0.02)))
            except CommandTimeout:
                if attempt == times - 1:
                    raise
                instrument.may_speak.set()
        return None

    return SynSignal(name="det", func=ask)


def events(documents, stream):
    descriptors = {doc["uid"] for name, doc in documents if name == "descriptor" and doc["name"] == stream}
    return [doc for name, doc in documents if name == "event" and doc["descriptor"] in descriptors]


def troubles(documents):
    return [
        tuple(doc["data"][key] for key in ("kind", "owner", "affected_stream", "affected_seq_num"))
        for doc in events(documents, STREAM)
    ]


def lose_the_reply_of(port, instrument, points):
    """Return a hook for `count`: the instrument answers late before these points (counted from 1)."""
    taken = iter(range(1, 1000))

    def one_point(detectors):
        if next(taken) in points:
            instrument.may_speak.clear()
        yield from bps.trigger_and_read(detectors)

    return one_point


def test_an_untroubled_run_has_no_such_stream(RE, port, instrument, documents):
    RE(count([patient_reading(port, instrument)], 3))
    assert [name for name, _ in documents] == ["start", "descriptor", "event", "event", "event", "stop"]


def test_troubled_points_are_named(RE, port, instrument, documents):
    hook = lose_the_reply_of(port, instrument, points={2, 4})
    RE(count([patient_reading(port, instrument)], 5, per_shot=hook))
    told = troubles(documents)
    assert [entry for entry in told if entry[0] == "timeout"] == [
        ("timeout", "meter", "primary", 2),
        ("timeout", "meter", "primary", 4),
    ]
    assert {entry[0] for entry in told} == {"timeout", "late"}
    first = events(documents, STREAM)[0]
    assert first["data"]["wire"] == port.wire.name
    assert first["data"]["command"] == r"Q7?\n"
    assert first["timestamps"]["kind"] == first["data"]["trouble_time"]
    assert events(documents, "primary")[0]["time"] < first["data"]["trouble_time"] < first["time"]
    assert documents[-1][1]["num_events"] == {"primary": 5, STREAM: len(told)}


def test_a_lost_and_found_wire_is_told(RE, port, instrument, documents, wait_for):
    def unplug(detectors):
        yield from bps.trigger_and_read(detectors)
        if len(events(documents, "primary")) == 1:
            instrument.kill()
            with pytest.raises(Exception, match="meter"):
                port.query(b"Q1?\n", owner="meter", timeout=0.05)
            instrument.plug_in()
            wait_for(lambda: port.connected)

    RE(count([patient_reading(port, instrument)], 2, per_shot=unplug))
    told = troubles(documents)
    assert ("disconnected", "", "primary", 2) in told
    assert ("reconnect", "", "primary", 2) in told


def test_what_ends_a_run_is_told_with_it(RE, port, instrument, documents):
    det = patient_reading(port, instrument, times=1)
    instrument.may_speak.clear()
    with pytest.raises(CommandTimeout, match="meter"):
        RE(count([det]))
    assert troubles(documents) == [("timeout", "meter", "", 0)]
    name, stop = documents[-1]
    assert (name, stop["exit_status"]) == ("stop", "fail")


def test_a_plan_that_leaves_its_run_open_is_no_exception(RE, port, instrument, documents):
    det = patient_reading(port, instrument, times=1)

    def careless():
        yield from bps.open_run()
        yield from bps.create("primary")
        yield from bps.trigger(det, wait=True)

    instrument.may_speak.clear()
    with pytest.raises(CommandTimeout, match="meter"):
        RE(careless())
    assert troubles(documents) == [("timeout", "meter", "", 0)]


def test_each_of_several_open_runs_has_its_own_account(RE, port, instrument, documents):
    det = patient_reading(port, instrument)

    @bpp.set_run_key_decorator("outer")
    @bpp.run_decorator(md={"which": "outer"})
    def outer():
        yield from bps.trigger_and_read([det], name="before")
        yield from inner()
        yield from bps.trigger_and_read([det], name="after")

    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator(md={"which": "inner"})
    def inner():
        instrument.may_speak.clear()
        yield from bps.trigger_and_read([det])

    result = RE(outer())
    assert len(result) == 2
    told = [entry for entry in troubles(documents) if entry[0] == "timeout"]
    assert sorted(told) == [("timeout", "meter", "after", 1), ("timeout", "meter", "primary", 1)]


def test_a_rewound_point_tells_its_trouble_once_for_each_number(RE, port, instrument, documents):
    det = patient_reading(port, instrument)
    pauses = iter([True])

    def plan():
        yield from bps.open_run()
        yield from bps.checkpoint()
        instrument.may_speak.clear()
        yield from bps.trigger_and_read([det])
        if next(pauses, False):
            yield from bps.pause()
        yield from bps.checkpoint()
        yield from bps.trigger_and_read([det])
        yield from bps.close_run()

    with pytest.raises(RunEngineInterrupted):
        RE(plan())
    RE.resume()
    by_number = {doc["seq_num"]: doc["data"] for doc in events(documents, STREAM) if doc["data"]["kind"] == "timeout"}
    assert len(by_number) == 1
    assert [doc["seq_num"] for doc in events(documents, "primary")] == [1, 1, 2]


def test_plans_return_what_they_return(RE, port):
    def plan():
        yield from bps.null()
        return 42

    RE._call_returns_result = True
    assert RE(plan()).plan_result == 42


def test_what_a_monitor_says_takes_no_trouble_from_the_scan(RE, port, instrument, documents):
    watched = SynSignal(name="watched", func=lambda: 1.0)
    det = patient_reading(port, instrument)

    def one_point(detectors):
        instrument.may_speak.clear()
        yield from bps.trigger(det, wait=True)
        watched.put(2.0)
        yield from bps.create("primary")
        yield from bps.read(det)
        yield from bps.save()

    RE(bpp.monitor_during_wrapper(count([det], 1, per_shot=one_point), [watched]))
    assert len(events(documents, "watched_monitor")) == 1
    assert ("timeout", "meter", "primary", 1) in troubles(documents)


@pytest.mark.server
def test_a_session_records_it_and_the_catalog_shows_it(data_dir):
    config = {"v2": {"instruments": [{"id": "meter", "type": "Newport1830C", "serial_port": "/dev/ttyUSB0"}]}}
    with Session.open(DualConfig.from_mapping(config), simulate=True, data_dir=data_dir, strict=True) as session:
        (wire,) = session.resources.wires

        def one_point(detectors):
            if not wire.last_trouble:
                wire.record_retry("meter", b"D?\n")
            yield from bps.trigger_and_read(detectors)

        session.RE(count([session.devices.meter], 2, per_shot=one_point))
        run = session.catalog[-1]
        table = run[STREAM].read()
        assert table["kind"].values.tolist() == ["retry"]
        assert table["affected_seq_num"].values.tolist() == [1]
        assert run["primary"].read().sizes["time"] == 2
