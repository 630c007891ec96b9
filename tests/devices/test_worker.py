"""The threads behind v2 devices: there while there is work, gone when there is none, and a hung one is noticed."""

import gc
import threading
import time

import pytest

from devices.v2 import DriverHung, worker, wrap
from devices.v2.watchdog import Watchdog


class Driver:
    """Tells which thread asked for its value, and can be made to hang."""

    def __init__(self):
        self.threads = []
        self.hang = threading.Event()
        self.hang.set()

    @property
    def value(self):
        self.threads.append(threading.current_thread())
        assert self.hang.wait(10)
        return 1.0


@pytest.fixture
def patient(monkeypatch):
    """As outside of the tests: threads wait for more work for longer than a test takes."""
    monkeypatch.setattr(worker, "IDLE_S", 60.0)


def make(name="device", **options):
    driver = Driver()
    device = wrap(driver, name=name, read=["value"], **options)
    return driver, device


def ours():
    return [thread for thread in threading.enumerate() if thread.name.endswith("(v2)")]


def test_one_thread_serves_all_requests_of_a_device(patient, wait_for):
    driver, device = make()
    for _ in range(5):
        device.trigger().wait(5)
    assert len(set(driver.threads)) == 1
    device.destroy()
    wait_for(lambda: not ours())


def test_idle_thread_ends_and_another_one_does_later_work(wait_for):
    driver, device = make()
    device.trigger().wait(5)
    wait_for(lambda: not ours())
    device.trigger().wait(5)
    assert len(set(driver.threads)) == 2


def test_device_that_is_dropped_leaves_no_thread_behind(patient, wait_for):
    _driver, device = make()
    device.trigger().wait(5)
    assert ours()
    del device
    gc.collect()
    wait_for(lambda: not ours())


def test_work_given_before_the_end_is_done(patient, wait_for):
    driver, device = make()
    driver.hang.clear()
    statuses = [device.trigger() for _ in range(3)]
    device.destroy()
    driver.hang.set()
    for status in statuses:
        status.wait(5)
    wait_for(lambda: not ours())


def test_hung_device_is_noticed_beside_one_that_works(patient, wait_for):
    hung_driver, hung = make("hung", timeout_s=0.2)
    _driver, device = make("works", timeout_s=60)
    hung_driver.hang.clear()
    working = [device.trigger() for _ in range(3)]
    status = hung.trigger()
    with pytest.raises(DriverHung, match=r"hung.*measuring"):
        status.wait(5)
    for each in working:
        each.wait(5)
    hung_driver.hang.set()
    hung.destroy()
    device.destroy()
    wait_for(lambda: not ours())


def test_requests_are_told_in_the_order_of_their_deadlines(wait_for):
    dog = Watchdog()
    dog.enter()
    told, watches, all_there = [], {}, threading.Event()
    dog.watch(0, lambda: all_there.wait(10))  # nothing is told before all requests are there, however long that takes
    dog.watch(60, lambda: told.append("never"))
    for limit in (0.3, 0.1, 0.2):
        watches[limit] = dog.watch(
            limit, lambda limit=limit: told.append((limit, time.monotonic() >= watches[limit].deadline))
        )
    done = dog.watch(0.05, lambda: told.append("done in time"))
    dog.over(done)
    all_there.set()
    wait_for(lambda: len(told) == 3)
    assert told == [(limit, True) for limit in sorted(watches, key=lambda limit: watches[limit].deadline)]
    for watch in list(dog._watches):
        dog.over(watch)
    dog.leave()
