"""What a wire counts and remembers, in a fixed amount of memory, and what idleness costs."""

import logging
import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from people import Holder, Person, in_line
from proofs import many_wires
from ptys import instrument_and_port, unanswered

from coexistence import AcquireTimeout, CommandTimeout, WireDisconnected
from coexistence.wire_statistics import OwnerStatistics, Sketch, StatisticsCollector


def test_each_owner_has_figures_of_its_own(port, instrument):
    for _ in range(3):
        port.query(b"Q1?\n", owner="meter")
    port.write(b"U1\n", owner="stage")
    stats = port.stats
    assert (stats.exchanges, stats.bytes_sent, stats.bytes_received) == (4, 15, 6)
    assert set(stats.owners) == {"meter", "stage"}
    meter = stats.owners["meter"]
    assert (meter.exchanges, meter.timeouts, meter.errors, meter.retries) == (3, 0, 0, 0)
    assert (meter.wait.count, meter.hold.count, meter.duration.count) == (3, 3, 3)
    assert 0.0 < meter.duration.p50 <= meter.duration.p95 <= meter.duration.p99 <= meter.duration.max
    assert meter.hold.sum >= meter.duration.sum
    assert stats.owners["stage"].bytes_received == 0


def test_timeouts_losses_and_waits_are_counted(port, instrument):
    instrument.silent = True
    unanswered(port.query, b"Q1?\n", owner="meter")
    assert port.stats.owners["meter"].timeouts == 1
    with Holder(port.acquire("holder")), pytest.raises(AcquireTimeout):
        port.query(b"Q2?\n", owner="second", timeout=0.02)
    instrument.kill()
    with pytest.raises((WireDisconnected, CommandTimeout)):
        port.query(b"Q3?\n", owner="third", timeout=0.3)
    figures = port.stats.owners["third"]
    assert figures.errors + figures.timeouts == 1


def test_waiting_time_is_counted_for_who_waited(wait_for):
    with instrument_and_port() as (_, port):
        began = time.perf_counter()
        with Holder(port.acquire("holder")) as holder:
            person = Person(lambda: port.query(b"Q1?\n", owner="patient", timeout=20.0))
            wait_for(lambda: in_line(port.wire.arbiter) == ["patient"])
            waiting = time.perf_counter()
            time.sleep(0.1)
            waited = time.perf_counter() - waiting
            holder.let_go()
            person.result()
        most = time.perf_counter() - began
        figures = port.stats.owners
    assert waited <= figures["patient"].wait.max <= most
    assert figures["holder"].wait.max < waited


def test_log_keeps_the_last_exchanges_only():
    with instrument_and_port(port={"log_size": 5}) as (_, port):
        before = time.time()
        for number in range(12):
            port.query(b"Q%d?\n" % number, owner="meter")
        log = port.log
    assert [entry.received for entry in log] == [b"A%d" % number for number in range(7, 12)]
    last = log[-1]
    assert (last.owner, last.sent, last.outcome) == ("meter", b"Q11?\n", "ok")
    assert before <= last.time <= time.time()
    assert 0.0 < last.duration < 5.0
    assert last.wait == 0.0


def test_log_tells_how_each_exchange_ended(port, instrument):
    port.query(b"Q1?\n", owner="meter")
    instrument.silent = True
    with pytest.raises(CommandTimeout):
        port.query(b"Q2?\n", owner="meter", timeout=0.3)
    with pytest.raises(CommandTimeout):
        port.query(b"Q3?\n", owner="meter", timeout=0.01)
    assert [entry.outcome for entry in port.log] == ["ok", "timeout", "not sent"]


def test_loss_and_return_are_logged_with_structured_fields(port, instrument, caplog, wait_for):
    caplog.set_level(logging.INFO, "coexistence.wire")
    instrument.kill()
    instrument.plug_in()
    port.query(b"Q1?\n", owner="meter", timeout=10.0)

    def events_told() -> dict:
        return {record.event: record for record in caplog.records if hasattr(record, "event")}

    wait_for(lambda: set(events_told()) == {"lost", "back"})
    events = events_told()
    assert events["lost"].wire == events["back"].wire == port.path
    assert events["lost"].levelno == logging.WARNING
    instrument.silent = True
    unanswered(port.query, b"Q2?\n", owner="meter")
    assert (caplog.records[-1].wire, caplog.records[-1].owner) == (port.path, "meter")


DURATIONS = st.floats(1e-6, 1e4)


@given(st.lists(DURATIONS, min_size=1, max_size=60))
def test_quantiles_of_a_sketch_are_right_to_the_width_of_a_bucket(values):
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    assert sketch.count == len(values)
    assert sketch.sum == pytest.approx(sum(values))
    assert sketch.max == max(values)
    assert sketch.mean == pytest.approx(sum(values) / len(values))
    ordered = sorted(values)
    for fraction in (0.5, 0.95, 0.99):
        exact = ordered[max(math.ceil(fraction * len(ordered)) - 1, 0)]
        assert exact * 0.999999 <= sketch.quantile(fraction) <= exact * 1.0626


@given(st.lists(DURATIONS, max_size=30), st.lists(DURATIONS, max_size=30))
def test_merged_sketches_are_those_of_all_values(some, others):
    one, two, both = Sketch(), Sketch(), Sketch()
    for value in some:
        one.add(value)
    for value in others:
        two.add(value)
    for value in [*some, *others]:
        both.add(value)
    one.merge(two)
    assert (one.count, one.max, one._buckets) == (both.count, both.max, both._buckets)
    assert one.sum == pytest.approx(both.sum)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-12, 1e12])
def test_durations_outside_all_buckets_are_counted_all_the_same(value):
    sketch = Sketch()
    sketch.add(value)
    assert sketch.count == 1
    assert sketch.p50 <= max(value, 1e-6) or math.isclose(sketch.p50, value, rel_tol=0.5)
    assert Sketch().p99 == 0.0


def test_owners_beyond_256_are_counted_together():
    collector = StatisticsCollector()
    collector.add_holds([each for n in range(400) for each in (f"owner {n}", 0.0, 0.001)])
    snapshot = collector.snapshot()
    assert len(snapshot.owners) == 257
    assert snapshot.owners["(others)"].hold.count == 400 - 256
    assert snapshot.hold.count == 400
    assert isinstance(snapshot.owners["owner 0"], OwnerStatistics)


def test_figures_are_complete_although_many_report_at_once(port):
    def ask(owner):
        choose = random.Random(owner)
        for _ in range(100):
            port.query(b"Q%d?\n" % choose.randrange(100), owner=owner, timeout=30.0)

    people = [Person(ask, f"{number}") for number in range(5)]
    for person in people:
        person.result()
    stats = port.stats
    assert stats.exchanges == stats.hold.count == 500
    assert all(figures.exchanges == 100 for figures in stats.owners.values())


def test_many_wires_threads_and_tasks_at_once_and_idle_wires_use_no_cpu():
    figures = many_wires(wires=20, threads=50, tasks=100, exchanges=5)
    assert figures["idle_cpu_share"] < 0.05
    assert figures["memory_per_wire_bytes"] < 1_000_000


async def test_holds_that_ended_from_outside_are_counted_too(port):
    with port.acquire("revoked"):
        port.revoke()
    async with port.acquire_async("left early") as guard:
        guard.begin_operation()
    guard.end_operation()
    assert {owner: figures.hold.count for owner, figures in port.stats.owners.items()} == {
        "revoked": 1,
        "left early": 1,
    }
