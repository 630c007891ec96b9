"""The long proofs: many kills at random moments, and a million events that waited for the server."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import time
import uuid

import pytest
from catalog_helpers import assert_all_there, state_of, wait_until

from catalog import CatalogSession, original_documents
from catalog.directory import CatalogState

pytestmark = [pytest.mark.soak, pytest.mark.server, pytest.mark.timeout(3600)]

ROUNDS = 50
EVENTS = 1_000_000
LARGEST_DAEMON_BYTES = 1.5 * 2**30


def test_kills_at_random_moments(data_dir, measuring):
    dice = random.Random(20250611)
    with CatalogSession(data_dir) as session:
        session.catalog(wait=60.0)
        runs = []
        for _ in range(ROUNDS):
            run = measuring(data_dir, events=150, delay_s=0.01)
            runs.append(run)
            run.wait_events(1)
            time.sleep(dice.uniform(0.0, 2.0))
            state = CatalogState.read(session.directory)
            victims = {
                "server": [state and state.server_pid],
                "daemon": [state and state.daemon_pid],
                "session": [run.process.pid],
                "all": [state and state.server_pid, state and state.daemon_pid, run.process.pid],
            }[dice.choice(["server", "daemon", "session", "all"])]
            for pid in victims:
                if pid:
                    with contextlib.suppress(ProcessLookupError):  # it is being started again
                        os.kill(pid, signal.SIGKILL)
            run.finish(60.0)
        for run in runs:
            assert_all_there(session, run.uid, run.emitted)
        assert len(session.catalog(wait=60.0)) == ROUNDS
        session.close(wait_delivered=60.0)


def test_a_million_events_that_waited_for_the_server(data_dir):
    uid, descriptor = str(uuid.uuid4()), str(uuid.uuid4())
    with CatalogSession(data_dir) as session:
        session.catalog(wait=60.0)
        daemon = state_of(session).daemon_pid
        os.kill(daemon, signal.SIGSTOP)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        session.journal("start", {"uid": uid, "time": time.time(), "plan_name": "flood"})
        data_keys = {"x": {"source": "flood", "dtype": "number", "shape": []}}
        session.journal(
            "descriptor",
            {
                "uid": descriptor,
                "run_start": uid,
                "time": time.time(),
                "name": "primary",
                "data_keys": data_keys,
                "configuration": {},
                "hints": {},
                "object_keys": {},
            },
        )
        for number in range(1, EVENTS + 1):
            now = time.time()
            event = {"uid": f"{number}", "descriptor": descriptor, "seq_num": number, "time": now}
            session.journal("event", {**event, "data": {"x": number / 7}, "timestamps": {"x": now}})
        now = time.time()
        session.journal(
            "stop",
            {
                "uid": str(uuid.uuid4()),
                "run_start": uid,
                "time": now,
                "exit_status": "success",
                "num_events": {"primary": EVENTS},
            },
        )
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # kibibytes
        os.kill(daemon, signal.SIGCONT)
        largest = 0

        def delivered():
            nonlocal largest
            with open(f"/proc/{daemon}/statm") as statm:
                largest = max(largest, int(statm.read().split()[1]) * resource.getpagesize())
            return session.directory.delivered_journal_of(uid)

        wait_until(delivered, "a million events", timeout=1800.0)
        assert largest < LARGEST_DAEMON_BYTES
        table = session.catalog()[uid]["primary"].base["internal"].read(["seq_num", "x"])
        assert table["seq_num"].tolist() == list(range(1, EVENTS + 1))
        assert sum(name == "event" for name, _ in original_documents(data_dir, uid)) == EVENTS
        session.close(wait_delivered=60.0)
