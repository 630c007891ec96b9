"""Runs that go on can be read at any moment: rows are added and columns change their form between any two requests."""

from __future__ import annotations

import threading
import time
import traceback

import h5py
import numpy as np
import pytest
from catalog_helpers import NUMBER, FilmedRun, documents, wait_until

from catalog import open_catalog
from catalog.encoding import as_json
from catalog.errors import ColumnReplaced
from catalog.verify import _equal, compare_run

pytestmark = pytest.mark.server

FLOATS = {"dtype": "array", "shape": [3], "dtype_numpy": "<f8", "source": "test"}
INTEGER = {"dtype": "integer", "shape": [], "source": "test"}
STRING = {"dtype": "string", "shape": [], "source": "test"}
ROWS = 24


def changing_columns():
    """Columns of all forms; each of them that changes does so at another event."""
    rows = np.arange(float(ROWS))
    return {
        "power": (NUMBER, list(rows)),
        "image": (FLOATS, [np.array([1.0, 2.0, 3.0]) + row for row in rows]),
        "trace": (FLOATS, [np.full(3 if row < 9 else 4, row) for row in rows]),
        "range": (INTEGER, [1 if row < 14 else 0.5 if row < 19 else "over" for row in rows]),
        "sample": (STRING, ["s" * int(row) for row in rows]),
    }


class GrowingRun:
    """A run that is emitted event by event."""

    def __init__(self, served):
        self.keys = changing_columns()
        self._documents = documents(self.keys, ROWS)
        self._served = served
        self.uid = self._next()["uid"]
        self._next()
        self.events = 0
        self.catalog = served.catalog()

    def _next(self):
        name, document = next(self._documents)
        self._served.journal(name, document)
        return document

    def measure(self, events):
        for _ in range(events):
            self._next()
        self.events += events

    def end(self):
        self._next()
        self._served.wait_delivered(self.uid, timeout=90.0)
        assert compare_run(self._served.directory.root, self.catalog[self.uid]) == []

    @property
    def stream(self):
        return self.catalog[self.uid]["primary"]

    def wait_for_rows(self):
        wait_until(lambda: self.uid in self.catalog and "primary" in self.catalog[self.uid], "the stream")
        wait_until(lambda: "power" in self.stream and len(self.stream["power"]) == self.events, "the rows")

    def assert_true(self, column, found):
        """Check that values are the first ones of a column, in whatever form."""
        wanted = self.keys[column][1]
        for value, kept in zip(wanted, found.tolist(), strict=False):
            text = isinstance(kept, str) and kept == str(value)
            # tiled fills up shorter arrays of a dataset
            same = text or _equal(as_json(value), kept[: len(value)] if isinstance(kept, list) else kept)
            assert same, (column, value, kept)


def test_a_column_that_is_held_is_read_in_the_form_that_it_has_by_then(served):
    run = GrowingRun(served)
    run.measure(3)
    run.wait_for_rows()
    held = {name: run.stream[name] for name in run.keys}
    lazy = open_catalog(served.directory.root, lazy=True)[run.uid]["primary"]
    pictures = {name: lazy[name].read() for name in ("power", "image", "range")}
    run.measure(1)
    run.wait_for_rows()
    assert held["power"].read().tolist() == pictures["power"].compute().tolist() == [0.0, 1.0, 2.0]
    assert held["image"].read().shape == pictures["image"].compute().shape == (3, 3)
    assert held["sample"].read().tolist()[:3] == ["", "s", "ss"]
    run.measure(11)
    run.wait_for_rows()
    assert held["trace"].read().tolist()[9] == [9.0] * 4
    assert held["range"].read().tolist() == [1.0] * 14 + [0.5]
    assert held["range"][-1] == 0.5
    message = rf"Column 'range' of stream 'primary' of run {run.uid[:8]} has been written in another form"
    with pytest.raises(ColumnReplaced, match=message) as caught:
        pictures["range"].compute()
    assert (caught.value.run, caught.value.stream, caught.value.column) == (run.uid, "primary", "range")
    pictures["power"].compute()
    run.measure(ROWS - run.events)
    run.end()
    assert held["range"].read().tolist() == ["1"] * 14 + ["0.5"] * 5 + ["over"] * 5
    assert len(held["trace"].read().tolist()) == ROWS
    assert held["power"].read().tolist() == [0.0, 1.0, 2.0]  # as many as it said to have


def test_whoever_reads_a_run_that_goes_on_sees_whole_rows_and_no_error(served):
    run = GrowingRun(served)
    over = threading.Event()
    rounds = {"whole": 0, "columns": 0}
    failures = []

    def read(what):
        while not over.is_set():
            if "primary" in run.catalog[run.uid] and "power" in (stream := run.stream):
                if what == "columns":
                    found = {name: stream[name].read() for name in {*run.keys} & {*stream}}
                else:
                    data = stream.read()
                    assert all(column.dims[0] == "time" for column in data.data_vars.values()), data
                    found = {name: column.values for name, column in data.data_vars.items() if name in run.keys}
                for name, values in found.items():
                    run.assert_true(name, values)
                rounds[what] += 1

    def guarded(what):
        try:
            read(what)
        except BaseException:
            failures.append(f"{what}: {traceback.format_exc()}")

    readers = [threading.Thread(target=guarded, args=(what,)) for what in rounds]
    wait_until(lambda: run.uid in run.catalog, "the run")
    for reader in readers:
        reader.start()
    try:
        while run.events < ROWS and not failures:
            run.measure(1)
            time.sleep(0.1)
            if run.events in (12, ROWS):
                done = dict(rounds)
                wait_until(lambda done=done: failures or all(rounds[what] > done[what] for what in done), "the readers")
        began = time.monotonic()
        run.measure(ROWS - run.events)
        run.end()
        took = time.monotonic() - began
    finally:
        over.set()
        for reader in readers:
            reader.join(60.0)
    assert failures == []
    assert took < 25.0  # readers have kept the server's last steps waiting for half a minute each


@pytest.mark.parametrize(
    ("of_event", "of_file"),
    [((2, 6, 4), (6, 4)), ((2, 24), (24,)), ((12, 4), (12, 4))],
    ids=["frames of an event", "lines of an event", "one frame an event"],
)
def test_frames_are_read_as_far_as_events_tell_of_them_while_the_file_is_ahead(served, tmp_path, of_event, of_file):
    events = np.arange(5 * 48, dtype="u2").reshape(5, *of_event)
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file.create_dataset("entry/data", data=events.reshape(-1, *of_file), chunks=(1, *of_file))
    run = FilmedRun(served, tmp_path / "frames.h5", events, chunk=of_file, dataset="entry/data", power=NUMBER)
    uid = run.uid
    run.announce(0, 3)
    for power in (0.5, 1.5, 2.5, 3.5):
        run.measure(power=power)
    catalog = served.catalog()
    wait_until(lambda: uid in catalog and "primary" in catalog[uid], "the stream")
    stream = catalog[uid]["primary"]
    wait_until(lambda: {"frames", "power"} <= set(stream) and stream["frames"].shape[0] == 3, "what is announced")
    wanted = events[:3]
    np.testing.assert_array_equal(stream["frames"].read(), wanted)
    np.testing.assert_array_equal(stream["frames"][-1], wanted[-1])
    data = stream.read()
    assert data["power"].values.tolist() == [0.5, 1.5, 2.5]
    np.testing.assert_array_equal(data["frames"], wanted)
    assert stream.read(["power"])["power"].values.tolist() == [0.5, 1.5, 2.5, 3.5]
    run.announce(3, 4)
    run.end()
    np.testing.assert_array_equal(catalog[uid]["primary"]["frames"].read(), events[:4])
