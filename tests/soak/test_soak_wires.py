"""The proofs about wires at full length; `make soak` runs them."""

import pytest
from proofs import (
    crossed_replies,
    late_replies,
    many_exchanges,
    many_wires,
    mutual_exclusion,
    opposite_orders,
    unplug_and_replug,
)
from ptys import PtyInstrument
from test_arbiter_state_machine import run_histories
from test_wire_stumbling import stumbling

from coexistence import SharedSerialPort

pytestmark = pytest.mark.soak


def test_crossed_replies():
    outcomes = crossed_replies(20_000)
    assert outcomes["answered"] > 10_000


def test_late_replies():
    outcomes = late_replies(1000)
    assert outcomes["late"] > 300


@pytest.mark.parametrize("revocations", [False, True])
def test_mutual_exclusion(revocations):
    assert mutual_exclusion(30.0, revocations=revocations)["held"] > 10_000


def test_opposite_orders():
    assert opposite_orders(rounds=10_000) > 10


def test_random_histories_of_an_arbiter(monkeypatch):
    run_histories(monkeypatch, examples=2000, steps=100)


def test_unplugging_again_and_again(tmp_path):
    with PtyInstrument(link=tmp_path / "meter") as instrument, SharedSerialPort(instrument.path) as port:
        delays = [unplug_and_replug(instrument, port, 0.1 * (number % 7)) for number in range(30)]
    assert sorted(delays)[len(delays) * 9 // 10] < 1.0, sorted(delays)


def test_hundred_thousand_exchanges():
    grown = many_exchanges(100_000)
    assert grown["threads"] == grown["descriptors"] == 0
    assert grown["memory_bytes"] < 1_500_000


def test_many_wires():
    figures = many_wires(wires=20, threads=50, tasks=100, exchanges=100)
    assert figures["idle_cpu_share"] < 0.05


@pytest.mark.parametrize("seed", range(1, 11))
def test_threads_stand_still_at_random_lines(seed):
    stumbling(seed, 60.0)
