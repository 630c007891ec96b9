"""Metadata that outlives a session, and what every start document says about where its numbers come from."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from coexistence.config import DualConfig
from profiles.metadata import Provenance, SharedMetadata

BENCH = {
    "application": {"name": "bench", "operator": "ada", "sample": "quartz"},
    "v2": {"instruments": [{"id": "power", "type": "Newport1830C", "serial_port": "/dev/ttyS99"}]},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.json"


def test_metadata_is_there_in_the_next_session(path: Path):
    first = SharedMetadata(path)
    first["sample"] = "quartz"
    first.update(field_t=np.float64(1.5), grid=np.arange(3))
    first.setdefault("versions", {})["bluesky"] = "1"
    del first["field_t"]
    assert SharedMetadata(path) == {"sample": "quartz", "grid": [0, 1, 2]}


def test_two_sessions_do_not_undo_each_others_changes(path: Path):
    one, two = SharedMetadata(path), SharedMetadata(path)
    one["sample"] = "quartz"
    two["proposal"] = "p1"
    assert one.pop("sample") == "quartz"
    one["sample"] = "silicon"
    assert SharedMetadata(path) == {"sample": "silicon", "proposal": "p1"}


def take_scan_ids(path: Path, count: int, queue) -> None:
    metadata = SharedMetadata(path)
    queue.put([metadata.next_scan_id() for _ in range(count)])


def test_every_scan_number_is_given_out_once_among_processes(path: Path):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    processes = [context.Process(target=take_scan_ids, args=(path, 50, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    numbers = sorted(number for _ in processes for number in queue.get())
    for process in processes:
        process.join()
    assert numbers == list(range(1, 201))


def test_what_a_file_cannot_hold_is_refused_before_anything_changes(path: Path):
    metadata = SharedMetadata(path)
    metadata["sample"] = "quartz"
    with pytest.raises(TypeError, match="cannot be kept as metadata: use text, numbers, lists"):
        metadata["sample"] = object()
    assert metadata["sample"] == SharedMetadata(path)["sample"] == "quartz"


def test_a_damaged_file_is_named_and_left_alone(path: Path):
    path.write_text("{")
    with pytest.raises(ValueError, match=r"metadata\.json is damaged \(.*\): repair or remove it"):
        SharedMetadata(path)
    assert path.read_text() == "{"


def test_clearing_metadata_keeps_counting_scans(path: Path):
    metadata = SharedMetadata(path)
    metadata["a"] = 1
    assert metadata.next_scan_id() == 1
    metadata.clear()
    assert json.loads(path.read_text()) == {"scan_id": 1, "metadata": {}}
    assert metadata.next_scan_id() == 2


def test_a_start_document_tells_who_what_and_with_which_versions():
    facts = {"power": {"generation": "v2"}, "other": {"generation": "v4"}}
    config = DualConfig.from_mapping(BENCH)
    provenance = Provenance(config, lambda: facts)
    start = provenance({"detectors": ["power"], "versions": {"bluesky": "1"}, "sample": "silicon"})
    assert start["operator"] == "ada"
    assert start["sample"] == "silicon"
    assert start["configuration"] == {"name": "bench", "fingerprint": config.fingerprint, "files": []}
    assert start["instruments"] == {"power": {"generation": "v2"}}
    assert {"ophyd_tandem", "bluesky", "ophyd_async"} <= set(start["versions"])
    assert provenance({})["instruments"] == facts
