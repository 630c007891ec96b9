"""Exported files hold what was measured, in the form that other programs expect."""

from __future__ import annotations

import csv
import json
import tracemalloc

import h5py
import numpy as np
import pyarrow.parquet
import pytest

from catalog import ExportError, JournalCorrupt, UnknownRun, annotate, export_run, original_documents
from catalog.journal import Journal
from catalog.recorded import recorded_run


def descriptor(**columns):
    keys = {}
    for name, (dtype, units, shape) in columns.items():
        keys[name] = {"source": f"test:{name}", "dtype": dtype, "shape": shape}
        keys[name] |= {"units": units} if units else {}
    return keys


def record(data_dir, uid, data_keys, rows, *, hints=None, dimensions=(), stream="primary", **start):
    with Journal(data_dir) as journal:
        start = {"uid": uid, "time": 1000.0, "scan_id": 7, "plan_name": "scan", "motors": ["motor"], **start}
        journal("start", {**start, "hints": {"dimensions": list(dimensions)}})
        configuration = {"motor": {"data": {"speed": 2.0}, "timestamps": {}, "data_keys": {"speed": {"units": "mm/s"}}}}
        journal(
            "descriptor",
            {
                "uid": f"d-{uid}",
                "run_start": uid,
                "time": 1000.0,
                "name": stream,
                "data_keys": data_keys,
                "configuration": configuration,
                "hints": hints or {},
                "object_keys": {},
            },
        )
        for number, row in enumerate(rows, start=1):
            journal(
                "event",
                {
                    "uid": f"e-{number}",
                    "descriptor": f"d-{uid}",
                    "seq_num": number,
                    "time": 1000.0 + number,
                    "data": row,
                    "timestamps": dict.fromkeys(row, 1000.0 + number),
                    "filled": {},
                },
            )
        journal("stop", {"uid": "s", "run_start": uid, "time": 1100.0, "exit_status": "success"})


@pytest.fixture
def scanned(data_dir):
    keys = descriptor(
        motor=("number", "mm", []),
        det=("number", "W", []),
        label=("string", "", []),
        hits=("integer", "", []),
        wave=("array", "V", [3]),
        image=("array", "", [20, 30]),
    )
    rows = [
        {
            "motor": number / 10,
            "det": number**2.0 if number else None,
            "label": f"état, {number}",
            "hits": 2**40 + number,
            "wave": np.arange(3) + number,
            "image": np.full((20, 30), number, "u2"),
        }
        for number in range(5)
    ]
    hints = {"motor": {"fields": ["motor"]}, "det": {"fields": ["det"]}}
    record(data_dir, "5a9d", keys, rows, hints=hints, dimensions=[[["motor"], "primary"]], operator="ada", sample="S1")
    return data_dir


def test_csv_has_a_row_for_each_event_and_its_metadata_beside_it(scanned, tmp_path):
    report = export_run(scanned, "5a9d", tmp_path / "run.csv")
    rows = list(csv.DictReader((tmp_path / "run.csv").open(encoding="utf-8")))
    assert [float(row["motor"]) for row in rows] == [0, 0.1, 0.2, 0.3, 0.4]
    assert [row["det"] for row in rows] == ["", "1.0", "4.0", "9.0", "16.0"]
    assert rows[3]["label"] == "état, 3"
    assert int(rows[3]["hits"]) == 2**40 + 3
    assert [rows[3][f"wave_{index}"] for index in range(3)] == ["3", "4", "5"]
    assert "image" not in rows[0]
    assert report.left_out == {"image": "each value is an array of 20 x 30; HDF5 and Parquet hold them"}
    metadata = json.loads((tmp_path / "run.json").read_text())
    assert metadata["data_keys"]["motor"]["units"] == "mm"
    assert metadata["start"]["sample"] == "S1"


def test_parquet_keeps_types_units_arrays_and_metadata(scanned, tmp_path):
    export_run(scanned, "5a9d", tmp_path / "run.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "run.parquet")
    assert table["hits"].to_pylist() == [2**40 + number for number in range(5)]
    assert table["det"].to_pylist() == [None, 1, 4, 9, 16]
    assert table["wave"].to_pylist()[2] == [2, 3, 4]
    assert json.loads(table.schema.field("image").metadata[b"shape"]) == [20, 30]
    np.testing.assert_array_equal(np.reshape(table["image"].to_pylist()[4], (20, 30)), np.full((20, 30), 4))
    assert table.schema.field("motor").metadata[b"units"] == b"mm"
    assert json.loads(table.schema.metadata[b"bluesky"])["start"]["uid"] == "5a9d"


def test_nexus_tells_readers_what_to_plot(scanned, tmp_path):
    annotate(scanned, "5a9d", note="fine", tags=["paper"], author="ada")
    export_run(scanned, "5a9d", tmp_path / "run.nxs")
    with h5py.File(tmp_path / "run.nxs") as file:
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        assert [each.attrs["NX_class"] for each in (file, entry, data)] == ["NXroot", "NXentry", "NXdata"]
        assert data.attrs["signal"] == "det"
        assert list(data.attrs["axes"]) == ["motor"]
        assert data["motor"].attrs["units"] == "mm"
        np.testing.assert_allclose(data["motor"], [0, 0.1, 0.2, 0.3, 0.4])
        np.testing.assert_allclose(data["det"], [np.nan, 1, 4, 9, 16])
        assert data["image"].shape == (5, 20, 30)
        assert data["image"].dtype == "u2"
        assert data["image"].attrs["interpretation"] == "image"
        assert data["label"].asstr()[2] == "état, 2"
        assert entry["title"].asstr()[()] == "scan 7 scan"
        assert entry["user/name"].asstr()[()] == "ada"
        assert entry["sample/name"].asstr()[()] == "S1"
        assert entry["instrument/motor"].attrs["NX_class"] == "NXpositioner"
        assert entry["instrument/motor/speed"].attrs["units"] == "mm/s"
        assert entry["note_1/data"].asstr()[()] == "fine"
        assert json.loads(entry["metadata/start"].asstr()[()])["uid"] == "5a9d"


def test_a_snaked_grid_is_there_as_a_map(data_dir, tmp_path):
    rows = []
    for slow in range(3):
        for fast in range(4) if slow % 2 == 0 else reversed(range(4)):
            rows.append({"y": slow * 1.0 + 0.01 * fast, "x": fast * 2.0, "det": slow * 10.0 + fast})
    keys = descriptor(y=("number", "mm", []), x=("number", "mm", []), det=("number", "W", []))
    dimensions = [[["y"], "primary"], [["x"], "primary"]]
    record(data_dir, "a1", keys, rows, hints={"det": {"fields": ["det"]}}, dimensions=dimensions, shape=[3, 4])
    export_run(data_dir, "a1", tmp_path / "grid.h5")
    with h5py.File(tmp_path / "grid.h5") as file:
        assert file["entry"].attrs["default"] == "primary_map"
        data = file["entry/primary_map"]
        assert list(data.attrs["axes"]) == ["y", "x"]
        np.testing.assert_allclose(data["det"], np.arange(3)[:, None] * 10.0 + np.arange(4))
        np.testing.assert_allclose(data["x"], [0, 2, 4, 6])


def test_json_lines_are_the_exact_documents(scanned, tmp_path):
    report = export_run(scanned, "5a9d", tmp_path / "run.jsonl")
    documents = original_documents(scanned, "5a9d")
    assert report.rows == len(documents)
    assert (tmp_path / "run.jsonl").read_bytes() == (scanned / "journal" / "5a9d.jsonl").read_bytes()


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".h5", ".jsonl"])
def test_a_file_is_never_overwritten(scanned, tmp_path, ending):
    target = tmp_path / f"run{ending}"
    target.write_text("mine")
    with pytest.raises(ExportError, match="exists already; remove it or give another name"):
        export_run(scanned, "5a9d", target)
    assert target.read_text() == "mine"
    assert list(tmp_path.glob("*run*")) == [target]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere/run.csv", "There is no folder .*nowhere: create it or give another"),
        ("run.xyz", "'run.xyz' tells no format: let it end in .csv, .parquet"),
        (f"{'long' * 100}.csv", r"\.csv cannot be written: File name too long\."),
        ("nul\0.csv", r"\.csv cannot be written: embedded null byte\."),
    ],
)
def test_a_target_that_cannot_be_is_named(scanned, tmp_path, target, message):
    with pytest.raises(ExportError, match=message):
        export_run(scanned, "5a9d", tmp_path / target)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_a_format_that_is_none_is_told_with_those_that_are(scanned, tmp_path):
    with pytest.raises(ExportError, match="'xls' is no format of a file: give csv, parquet, nexus, jsonl"):
        export_run(scanned, "5a9d", tmp_path / "run.csv", format="xls")


def test_a_stream_that_is_not_there_is_told_with_those_that_are(scanned, tmp_path):
    with pytest.raises(ExportError, match=r"has no stream 'baseline'. It has: primary"):
        export_run(scanned, "5a9d", tmp_path / "run.csv", stream="baseline")
    with pytest.raises(UnknownRun):
        export_run(scanned, "ffff", tmp_path / "run.csv")


def test_a_damaged_journal_leaves_no_file(scanned, tmp_path):
    path = scanned / "journal" / "5a9d.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b"garbage\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalCorrupt, match=r"5a9d.jsonl:4: damaged journal line"):
        export_run(scanned, "5a9d", tmp_path / "run.csv")
    assert not (tmp_path / "run.csv").exists()


def test_whole_numbers_that_become_fractions_are_not_cut(data_dir, tmp_path):
    rows = [{"det": value} for value in (1, 2.5, 3)]
    record(data_dir, "b1", descriptor(det=("number", "", [])), rows)
    assert recorded_run(data_dir, "b1").streams["primary"].columns["det"].dtype == "f8"
    export_run(data_dir, "b1", tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        np.testing.assert_allclose(file["entry/primary/det"], [1, 2.5, 3])


def test_columns_named_like_ours_and_arrays_of_changing_length_are_kept(data_dir, tmp_path):
    rows = [{"time": 5.0, "wave": [1.0, 2.0]}, {"time": 6.0, "wave": [3.0]}]
    record(data_dir, "c1", descriptor(time=("number", "s", []), wave=("array", "", [2])), rows)
    for ending in (".csv", ".parquet", ".h5"):
        export_run(data_dir, "c1", tmp_path / f"run{ending}")
    with h5py.File(tmp_path / "run.h5") as file:
        np.testing.assert_allclose(file["entry/primary/data_time"], [5, 6])
        np.testing.assert_allclose(file["entry/primary/wave"], [[1, 2], [3, np.nan]])
    assert pyarrow.parquet.read_table(tmp_path / "run.parquet")["data_time"].to_pylist() == [5, 6]


def test_memory_stays_bounded(data_dir, tmp_path):
    rows = ({"image": np.zeros((128, 1024), "f8")} for _ in range(48))  # 50 MB
    record(data_dir, "d1", descriptor(image=("array", "", [128, 1024])), rows)
    tracemalloc.start()
    try:
        export_run(data_dir, "d1", tmp_path / "run.h5")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 45e6
