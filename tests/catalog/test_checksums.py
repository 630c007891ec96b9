"""Image files are known by their checksums: whoever reads them later sees whether they are what was recorded."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import zarr
from bluesky.plans import count
from catalog_helpers import FilmedRun, wait_until
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices
from ophyd_async.sim import PatternGenerator, SimBlobDetector

from catalog import JournalError, UnknownRun, find_journal, maintenance, verify_files
from catalog.checksums import Checksums, file_of, files_of, record_of
from catalog.directory import DataDirectory
from profiles import catalog_care

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def imaged(served, tmp_path_factory):
    """A run with a camera's file, delivered; its uid and the file."""
    from bluesky import RunEngine

    engine = RunEngine({})
    folder = tmp_path_factory.mktemp("images")
    with init_devices():
        camera = SimBlobDetector(StaticPathProvider(UUIDFilenameProvider(), folder), PatternGenerator(), name="camera")
    engine.subscribe(served.journal)
    (uid,) = engine(count([camera], 2))
    served.wait_delivered(uid)
    wait_until(lambda: "checksums" in served.catalog()[uid].metadata, "the checksums", 20.0)
    (path,) = folder.iterdir()
    return uid, path


def test_checksums_are_in_the_metadata_and_beside_the_journal(served, imaged):
    uid, path = imaged
    stored = served.catalog()[uid].metadata["checksums"]
    assert stored == {
        str(path): {
            "size": path.stat().st_size,
            "modified": pytest.approx(path.stat().st_mtime),
            "sha256": record_of(path).sha256,
        }
    }
    beside = find_journal(served.directory.root, uid).with_name(f"{uid}.checksums.json")
    assert json.loads(beside.read_text())["files"] == stored
    assert verify_files(served.directory.root, uid) == []
    assert not list(served.directory.journals.glob("*.files"))


@pytest.fixture(scope="module")
def zarr_frames(tmp_path_factory):
    """Three frames, and the Zarr array that holds them; zarr starts a thread that stays."""
    frames = np.arange(3 * 4 * 5, dtype="u2").reshape(3, 4, 5)
    folder = tmp_path_factory.mktemp("zarr") / "frames.zarr"
    zarr.create_array(store=str(folder), data=frames, chunks=(1, 4, 5))
    return frames, folder


def test_frames_in_a_zarr_array_are_served_and_have_checksums(served, zarr_frames):
    frames, folder = zarr_frames
    run = FilmedRun(served, folder, frames)
    run.announce(0, 3)
    run.end()
    uid = run.uid
    np.testing.assert_array_equal(served.catalog()[uid]["primary"]["frames"].read(), frames)
    wait_until(lambda: "checksums" in served.catalog()[uid].metadata, "the checksums", 20.0)
    assert verify_files(served.directory.root, uid) == []
    next(path for path in sorted(folder.rglob("*")) if path.is_file()).write_bytes(b"other")
    assert [each.problem for each in verify_files(served.directory.root, uid)] == ["changed"]


def test_a_changed_and_a_missing_file_are_named(served, imaged, capsys):
    uid, path = imaged
    before = path.read_bytes()
    try:
        with h5py.File(path, "r+") as file:
            file.attrs["touched"] = 1
        assert [str(each) for each in verify_files(served.directory.root, uid[:8])] == [f"{path}: changed"]
        assert catalog_care.verify(served.directory.root, [uid], json_output=True) == 1
        told = capsys.readouterr()
        assert json.loads(told.out) == {"checked": 1, "differences": {uid: [f"{path}: changed"]}}
        assert f"The files of run {uid} are not what they were:" in told.err
        assert "Restore files that have changed or are missing from a backup." in told.err
        assert "replay" not in told.err
        assert catalog_care.verify(served.directory.root, [uid], files=False, json_output=True) == 0
        path.unlink()
        assert [str(each) for each in verify_files(served.directory.root, uid)] == [f"{path}: missing"]
    finally:
        path.write_bytes(before)
    assert verify_files(served.directory.root, uid) == []


def test_a_damaged_record_is_named(served, imaged):
    uid, _ = imaged
    beside = find_journal(served.directory.root, uid).with_name(f"{uid}.checksums.json")
    before = beside.read_bytes()
    try:
        beside.write_bytes(before[:20])
        ((_, (difference,)),) = maintenance.verify(served.directory.root, [uid])
        assert str(difference).startswith(f"the checksums cannot be read: {beside} holds no checksums")
        with pytest.raises(JournalError, match=r"checksums.json holds no checksums .*Restore it from a backup"):
            verify_files(served.directory.root, uid)
    finally:
        beside.write_bytes(before)


def test_an_unknown_run_is_refused(served):
    with pytest.raises(UnknownRun):
        verify_files(served.directory.root, "no-such-run")


def test_documents_of_both_schemas_name_their_files():
    documents = [
        ("start", {}),
        ("resource", {"root": "/data", "resource_path": "a/b.h5", "spec": "AD_HDF5"}),
        ("stream_resource", {"uri": "file://localhost/data/my%20images/c.h5"}),
        ("stream_resource", {"uri": "file://localhost/data/my%20images/c.h5"}),
        ("stream_resource", {"uri": "s3://bucket/c.zarr"}),
        ("event", {}),
    ]
    assert [str(path) for path in files_of(documents)] == ["/data/a/b.h5", "/data/my images/c.h5"]
    assert file_of("resource", {"root": "", "resource_path": "/abs/c.tiff"}).as_posix() == "/abs/c.tiff"


def test_a_directory_counts_as_one_file(tmp_path):
    folder = tmp_path / "images.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "chunk").write_bytes(b"12345")
    (folder / "zarr.json").write_bytes(b"{}")
    before = record_of(folder)
    assert before.size == 7
    (folder / "0" / "chunk").rename(folder / "0" / "other")
    assert record_of(folder).sha256 != before.sha256


def test_what_a_daemon_left_is_taken_up_by_the_next(tmp_path):
    directory = DataDirectory.at(tmp_path / "data")
    directory.create()
    image = tmp_path / "image"
    image.write_bytes(b"1")
    Checksums(directory).add("a-run", [image])
    following = Checksums(directory)
    assert following.busy
    directory.journal_of("a-run").write_bytes(b"")

    def done():
        following.step({})
        return not following.busy

    wait_until(done, "the checksums", 10.0)
    assert json.loads((directory.journals / "a-run.checksums.json").read_text())["files"][str(image)]["size"] == 1
    following.end()
