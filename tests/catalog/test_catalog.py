"""Runs reach the catalog while they go on, can be asked for in every way, and equal what was emitted."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import time
import uuid
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import httpx
import numpy as np
import pytest
from bluesky.plans import count, scan
from bluesky_tiled_plugins.queries import TimeRange
from catalog_helpers import NUMBER, alive, deliver, documents, state_of, wait_until
from ophyd.sim import SynAxis, SynGauss, SynSignal, hw
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices
from ophyd_async.sim import PatternGenerator, SimBlobDetector
from tiled.queries import FullText, Key

from catalog import (
    BadSearch,
    CatalogTimeout,
    DeliveryFailed,
    JournalCorrupt,
    KeyRejected,
    NoCatalog,
    UnknownMoment,
    UnknownPart,
    UnknownRun,
    find_journal,
    maintenance,
    open_catalog,
    original_documents,
    search_runs,
    shut_down,
    wait_delivered,
    web_address,
)
from catalog.client import connect
from catalog.directory import DataDirectory
from catalog.encoding import encode
from catalog.launch import leave_daemon
from catalog.verify import compare_run
from profiles import catalog_care

pytestmark = pytest.mark.server


@pytest.fixture
def devices():
    motor = SynAxis(name="motor")
    return motor, SynGauss("det", motor, "motor", center=0, Imax=1)


def record(RE, served, plan, **metadata):
    token = RE.subscribe(served.journal)
    try:
        (uid,) = RE(plan, **metadata)
    finally:
        RE.unsubscribe(token)
    served.wait_delivered(uid, timeout=90.0)
    return uid


def test_a_scan_is_in_the_catalog_as_emitted(RE, served, devices):
    motor, det = devices
    uid = record(RE, served, scan([det], motor, -1, 1, 7), scan_number_in_book=3, note=float("nan"), tags=("a", "b"))
    run = served.catalog()[uid]
    assert compare_run(served.directory.root, run) == []
    data = run["primary"].read()
    np.testing.assert_allclose(data["motor"], np.linspace(-1, 1, 7))
    assert run.metadata["stop"]["exit_status"] == "success"
    assert not list(served.directory.journals.glob("*.jsonl"))


def test_runs_are_found_by_every_handle(RE, served, devices):
    motor, det = devices
    before = time.time()
    RE.md["scan_id"] = 4711
    first = record(RE, served, count([det], 2), operator="ada")
    second = record(RE, served, scan([det], motor, 0, 1, 2), operator="grace")
    catalog = served.catalog()
    assert catalog[-1].metadata["start"]["uid"] == second
    assert catalog[-2].metadata["start"]["uid"] == first
    assert catalog[4712].metadata["start"]["uid"] == first
    assert catalog[first[:8]].metadata["start"]["uid"] == first
    for nobody in ("zzz", 99999, -999, ""):
        with pytest.raises(UnknownRun, match=f"^There is no run '{nobody}' in {served.directory.root}\\.$"):
            catalog[nobody]
    with pytest.raises(ValueError, match="'failed' is no exit status of a run: give success, abort, fail"):
        catalog.search(exit_status="failed")
    assert list(catalog.search(Key("operator") == "grace")) == [second]
    assert list(catalog.search(TimeRange(since=before))) == [first, second]
    assert list(catalog.search(Key("plan_name") == "count").search(TimeRange(since=before))) == [first]


def test_columns_are_read_in_the_order_of_the_descriptor_with_their_units(served):
    names = [f"{letter}_{number}" for letter in "zyxw" for number in range(3)]
    run = deliver(served, documents({name: ({**NUMBER, "units": f"m{name[0]}"}, [1.0]) for name in names}, 1))
    data = run["primary"].read()
    assert list(data.data_vars) == names
    assert data["z_0"].attrs == {"units": "mz"}
    assert list(run["primary"].read(["w_0", "z_1"]).data_vars) == ["z_1", "w_0"]


def test_what_a_run_does_not_have_is_told_with_what_it_has(RE, served, devices):
    motor, det = devices
    uid = record(RE, served, scan([det], motor, -1, 1, 3))
    run = served.catalog()[uid]
    with pytest.raises(UnknownPart, match=f"^Run {uid[:8]} has no stream 'baseline'\\. It has: primary\\.$"):
        run["baseline"]
    columns = "det, motor, motor_setpoint, time"
    for ask in (lambda: run["primary"]["power"], lambda: run["primary"].read(["det", "power"])):
        with pytest.raises(UnknownPart, match=f"^Stream 'primary' has no column 'power'\\. It has: {columns}\\.$"):
            ask()
    assert set(run["primary"].read("det").data_vars) == {"det"}
    assert "baseline" not in run
    assert run.get("baseline") is None


def test_what_cannot_be_asked_for_is_told_at_once(RE, served, devices):
    motor, det = devices
    uid = record(RE, served, scan([det], motor, -1, 1, 3), sample="Gd17Co83", run_of_the_day=np.int64(4))
    catalog = served.catalog()
    for words in ({"sample": ["Gd17Co83"]}, {"sample": {"name": "Gd17Co83"}}, {"device": 5}, {"tags": 5}, {"text": 5}):
        with pytest.raises(BadSearch, match=r"cannot be searched for: give text"):
            catalog.search(**words)
    with pytest.raises(UnknownMoment):
        catalog.search(since=object())
    with pytest.raises(UnknownRun):
        catalog[2**70]
    assert list(catalog.search("Gd17Co83")) == [uid]
    assert list(catalog.search("Gd17Co83", run_of_the_day=np.int64(4))) == [uid]
    assert [run.metadata["start"]["uid"] for run in catalog[-2:]][-1] == uid
    with pytest.raises(UnknownRun, match=r"journals go by uid, as catalog\[4\]\.metadata"):
        original_documents(served.directory.root, 4)


def test_old_scripts_work_through_the_broker(RE, served, devices):
    motor, det = devices
    uid = record(RE, served, scan([det], motor, -1, 1, 3), campaign="broker")
    db = served.catalog().v1
    assert db[-1].start["uid"] == uid
    table = db[-1].table()
    assert list(table["motor"]) == [-1, 0, 1]
    assert [header.start["uid"] for header in db(campaign="broker")] == [uid]
    assert set(served.catalog()[-1]["primary"]) >= {"motor", "det"}  # the newer face is not replaced by it


def test_a_run_appears_while_it_goes_on(RE, served, devices):
    _, det = devices
    seen = {}

    @bpp.run_decorator(md={"plan_name": "watched"})
    def plan():
        yield from bps.trigger_and_read([det])
        uid = RE._run_bundlers[None]._run_start_uid
        catalog = served.catalog()

        def rows():
            return uid in catalog and "primary" in catalog[uid] and "det" in catalog[uid]["primary"].read()

        wait_until(rows, "the first event in the catalog", 10.0)  # it takes half a second
        seen["running"] = "stop" not in catalog[uid].metadata
        yield from bps.trigger_and_read([det])

    record(RE, served, plan())
    assert seen["running"]


def test_values_that_change_their_type_arrive_all_the_same(RE, served):
    values = [0, 1, 0.5, 2**60, 7]
    number = SynSignal(name="number", func=lambda: values[0])

    @bpp.run_decorator()
    def plan():
        for _ in range(5):
            yield from bps.trigger_and_read([number])
            yield from bps.sleep(0.5)  # a batch of its own for each
            values.append(values.pop(0))

    uid = record(RE, served, plan())
    run = served.catalog()[uid]
    assert run["primary"].read()["number"].values.tolist() == [0, 1, 0.5, 2**60, 7]
    assert compare_run(served.directory.root, run) == []


def of_values(values: list) -> SynSignal:
    """A signal that reads one value after the other; the first is asked for once more when it is made."""
    readings = iter([values[0], *values])
    return SynSignal(name="number", func=lambda: next(readings))


@pytest.mark.parametrize("values", [[0, 0.5, 2**60], [2**60, 0.5, 0]])
def test_large_whole_numbers_beside_fractions_arrive_in_one_batch(RE, served, values):
    uid = record(RE, served, count([of_values(values)], len(values)))
    run = served.catalog()[uid]
    assert run["primary"].read()["number"].values.tolist() == values
    assert compare_run(served.directory.root, run) == []


def test_whole_numbers_that_no_fraction_keeps_arrive_as_text(RE, served):
    uid = record(RE, served, count([of_values([0.5, 2**60 + 1])], 2))
    assert served.catalog()[uid]["primary"].read()["number"].values.tolist() == ["0.5", str(2**60 + 1)]


def test_arrays_images_and_text_come_back(RE, served):
    image = SynSignal(name="image", func=lambda: np.arange(1200, dtype="u2").reshape(40, 30))
    wave = SynSignal(name="wave", func=lambda: np.array([1.5, np.nan, -np.inf]))
    label = SynSignal(name="label", func=lambda: "état \n 2")
    flag = SynSignal(name="flag", func=lambda: True)
    uid = record(RE, served, count([image, wave, label, flag], 3))
    run = served.catalog()[uid]
    assert compare_run(served.directory.root, run) == []
    image_stored = run["primary"]["image"].read()
    assert image_stored.shape == (3, 40, 30)
    assert image_stored.dtype == "u2"
    np.testing.assert_array_equal(run["primary"].read()["wave"], [[1.5, np.nan, -np.inf]] * 3)


def test_arrays_of_any_length_stay_numbers(RE, served):
    spectra = [[1.5, 2.5], [3.5, 4.5, 5.5], [6.5]]
    uid = record(RE, served, count([of_values(spectra)], 3))
    run = served.catalog()[uid]
    assert run["primary"]["number"].read().tolist() == spectra
    with pytest.warns(UserWarning, match="padded with NaNs"):
        whole = run["primary"].read()["number"]
    np.testing.assert_array_equal(whole, [[1.5, 2.5, np.nan], spectra[1], [6.5, np.nan, np.nan]])
    assert compare_run(served.directory.root, run) == []


def test_arrays_are_never_cut_to_the_type_of_the_first(RE, served):
    frames = [np.zeros(20, dtype="u2"), np.full(20, 0.5), np.arange(20)]
    wave = SynSignal(name="wave", func=lambda: frames[0])

    @bpp.run_decorator()
    def plan():
        for _ in range(3):
            yield from bps.trigger_and_read([wave])
            frames.append(frames.pop(0))

    uid = record(RE, served, plan())
    run = served.catalog()[uid]
    np.testing.assert_array_equal(run["primary"]["wave"].read(), np.stack(frames))
    assert compare_run(served.directory.root, run) == []


def test_files_of_cameras_of_both_generations_are_served(RE, served, tmp_path):
    old = hw(save_path=str(tmp_path)).img  # resource and datum documents
    with init_devices():
        new = SimBlobDetector(StaticPathProvider(UUIDFilenameProvider(), tmp_path), PatternGenerator(), name="new")

    @bpp.stage_decorator([old])
    @bpp.run_decorator()
    def old_plan():
        for _ in range(3):
            yield from bps.trigger_and_read([old])
            yield from bps.sleep(0.5)  # announced in several batches

    first = record(RE, served, old_plan())
    second = record(RE, served, count([new], 3))
    for uid, key, shape in ((first, "img", (3, 10, 10)), (second, "new", (3, 1, 240, 320))):
        run = served.catalog()[uid]
        assert compare_run(served.directory.root, run) == []
        assert run["primary"][key].read().shape == shape


def test_the_streams_of_a_run_stay_apart(RE, served, devices):
    motor, det = devices

    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([motor], name="baseline")
        yield from bps.trigger_and_read([det], name="primary")
        yield from bps.trigger_and_read([motor], name="baseline")

    uid = record(RE, served, plan())
    run = served.catalog()[uid]
    assert set(run) == {"primary", "baseline"}
    assert compare_run(served.directory.root, run) == []


def test_a_configuration_changed_within_a_run_is_kept(RE, served, devices):
    _, det = devices

    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([det])
        yield from bps.configure(det, {})
        yield from bps.trigger_and_read([det])

    uid = record(RE, served, plan())
    assert compare_run(served.directory.root, served.catalog()[uid]) == []


def test_a_run_the_catalog_refuses_is_kept_and_stops_no_other(RE, served, devices):
    _, det = devices

    def unnumbered(name, document):
        # No plan emits such a document; whatever one does emit can be delivered.
        served.journal(name, {**document, "seq_num": "first"} if name == "event" else document)

    (bad,) = RE(count([det]), unnumbered)
    (good,) = RE(count([det]), served.journal)
    served.wait_delivered(good)
    with pytest.raises(
        DeliveryFailed, match=r"could not be moved into the catalog.*Its journal is complete and kept"
    ) as caught:
        served.wait_delivered(bad)
    assert caught.value.uid == bad
    assert len(original_documents(served.directory.root, bad)) == 4
    (served.directory.journals / f"{bad}.jsonl").unlink()
    served.directory.delivery_problem(bad).unlink()


def test_differences_between_journal_and_catalog_are_told(RE, served, devices):
    _, det = devices
    uid = record(RE, served, count([det], 2))
    run = served.catalog()[uid]
    run.update_metadata({"start": {**run.metadata["start"], "plan_name": "other"}})
    (difference,) = compare_run(served.directory.root, served.catalog()[uid])
    assert str(difference) == "start: plan_name: emitted 'count', stored 'other'"


def test_foreign_files_are_left_alone(RE, served, devices):
    foreign = [
        served.directory.root / "notes.txt",
        served.directory.journals / "readme.md",
        served.directory.journals / "2025-13x" / "a.jsonl.gz",
        served.directory.sessions / "mine",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    _, det = devices
    record(RE, served, count([det]))
    assert all(path.read_text() == "mine" for path in foreign)


def test_what_is_named_like_a_journal_and_is_none_is_told_and_left_alone(RE, served, devices):
    _, det = devices
    copied = encode("start", {"uid": "another", "time": 1.0}) + encode("stop", {"run_start": "another"})
    foreign = {"unended": b"mine", "lines": b"mine\n", "copy of a run": copied, "empty": b""}
    paths = {name: served.directory.journal_of(name) for name in foreign}
    for name, path in paths.items():
        path.write_bytes(foreign[name])
    record(RE, served, count([det]))
    told = wait_until(lambda: len(found := maintenance.status(served.directory.root).problems) == 4 and found, "notes")
    assert "unended.jsonl:1: damaged journal line (a journal begins with the start document" in told["unended"]
    assert {name: path.read_bytes() for name, path in paths.items()} == foreign
    for path in paths.values():
        path.unlink()
    wait_until(lambda: not list(served.directory.journals.glob("*.problem")), "the notes to go")


def test_the_key_is_long_private_and_nowhere_else(served):
    directory = served.directory
    key = directory.read_key()
    assert len(bytes.fromhex(key)) >= 32
    assert stat.S_IMODE(directory.key_file.stat().st_mode) == 0o600
    state = state_of(served)
    served.catalog()
    httpx.get(served.web_address(with_key=True))
    for pid in (state.daemon_pid, state.server_pid):
        assert key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert key.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    for path in (directory.daemon_log, directory.server_log, directory.state_file):
        assert key not in path.read_text()


def test_the_server_listens_on_loopback_only_and_asks_for_the_key(served):
    url = served.web_address()
    assert url.startswith("http://127.0.0.1:")
    assert "api_key" not in url
    assert httpx.get(f"{url}api/v1/metadata/").status_code == 401
    assert served.directory.read_key() in served.web_address(with_key=True)
    assert "html" in httpx.get(served.web_address(with_key=True), follow_redirects=True).text.lower()


def test_a_wrong_key_is_named_without_telling_the_right_one(served, tmp_path):
    other = DataDirectory.at(tmp_path)
    other.create()
    with pytest.raises(KeyRejected, match=r"does not accept the key in .*server/key") as caught:
        connect(other, state_of(served).url, 5.0)
    assert other.read_key() not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_notebook_joins_the_running_server(served):
    catalog = open_catalog(served.directory.root)
    assert catalog.uri.startswith(state_of(served).url)
    assert web_address(served.directory.root) == served.web_address()
    leave_daemon(served.directory.root)


def test_only_one_daemon_serves_a_directory(served):
    state = state_of(served)
    second = subprocess.run(
        [os.sys.executable, "-m", "catalog.daemon", served.directory.root], capture_output=True, timeout=30.0
    )
    assert second.returncode == 0
    assert state_of(served) == state
    assert alive(state.daemon_pid)


def test_shut_down_leaves_a_catalog_that_others_use(served):
    assert shut_down(served.directory.root, timeout=5.0) is False
    assert alive(state_of(served).daemon_pid)


def test_waiting_for_an_unknown_run_fails_at_once(served):
    with pytest.raises(UnknownRun, match="There is no run 'nowhere'"):
        wait_delivered(served.directory.root, "nowhere")


def test_waiting_for_a_run_that_goes_on_ends_in_time(RE, served):
    @bpp.run_decorator()
    def plan():
        uid = RE._run_bundlers[None]._run_start_uid
        with pytest.raises(
            CatalogTimeout, match=r"not in the catalog within 0.3 s \(server: ready\). Nothing is lost"
        ) as caught:
            served.wait_delivered(uid, timeout=0.3)
        assert 0.3 <= caught.value.waited < 2.0
        yield from bps.null()

    record(RE, served, plan())


def test_a_place_without_a_catalog_is_named(tmp_path):
    with pytest.raises(NoCatalog, match=r"There is no catalog in .*Give the data directory that a session"):
        open_catalog(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_full_text_finds_what_the_metadata_says(RE, served, devices):
    _, det = devices
    uid = record(RE, served, count([det]), purpose="measure the unmistakable gadolinium line")
    assert list(served.catalog().search(FullText("gadolinium"))) == [uid]


def test_runs_are_found_by_what_people_remember(RE, served, devices):
    motor, det = devices
    other = SynSignal(name="det_2", func=lambda: 1.0)
    before = time.time()
    scanned = record(RE, served, scan([det], motor, 0, 1, 2), sample="S-7", purpose='a "fine" non-linear check')
    counted = record(RE, served, count([other]), sample="S-7")

    def failing():
        yield from bps.open_run({"plan_name": "failing"})
        yield from bps.null()
        yield from bps.close_run(exit_status="fail", reason="it had to")

    failed = record(RE, served, failing())
    found = {
        "all": search_runs(served.catalog(), since=before),
        "plan": search_runs(served.catalog(), since=before, plan="scan"),
        "detector": search_runs(served.catalog(), since=before, detector="det"),
        "motor": search_runs(served.catalog(), since=before, motor="motor"),
        "sample": search_runs(served.catalog(), since=before, sample="S-7"),
        "status": search_runs(served.catalog(), since=before, exit_status="fail"),
        "text": search_runs(served.catalog(), since=before, text='"fine" non-linear'),
        "until": search_runs(served.catalog(), since=before, until=before),
    }
    assert {name: list(runs) for name, runs in found.items()} == {
        "all": [scanned, counted, failed],
        "plan": [scanned],
        "detector": [scanned],
        "motor": [scanned],
        "sample": [scanned, counted],
        "status": [failed],
        "text": [scanned],
        "until": [],
    }


def test_status_tells_how_things_stand(RE, served, devices):
    _, det = devices
    seen = []

    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([det])
        seen.append(maintenance.status(served.directory.root))

    uid = record(RE, served, plan())
    assert seen[0].open_runs == [uid]
    assert seen[0].daemon.phase == "ready"
    assert seen[0].sessions >= 1
    after = maintenance.status(served.directory.root)
    assert (after.open_runs, after.waiting_runs, after.problems, after.kept) == ([], [], {}, False)
    assert after.delivered_runs == seen[0].delivered_runs + 1
    with pytest.raises(NoCatalog):
        maintenance.status(served.directory.root / "nothing")


def test_verify_and_replay_mend_the_catalog(RE, served, devices):
    _, det = devices
    damaged = record(RE, served, count([det], 2))
    lost = record(RE, served, count([det], 3))
    whole = record(RE, served, count([det]))
    root = served.directory.root
    catalog = served.catalog()
    catalog[damaged].update_metadata({"start": {**catalog[damaged].metadata["start"], "plan_name": "other"}})
    catalog.delete_contents(lost, recursive=True, external_only=False)
    found = {uid: [str(each) for each in differences] for uid, differences in maintenance.verify(root)}
    assert found[damaged] == ["start: plan_name: emitted 'count', stored 'other'"]
    assert len(found[lost]) == 1
    assert found[whole] == []
    assert maintenance.replay(root, [lost, whole]) == [lost, whole]
    assert maintenance.replay(root, [damaged[:12]], rewrite=True) == [damaged]
    for uid in (damaged, lost, whole):
        served.wait_delivered(uid)
    assert [differences for _, differences in maintenance.verify(root, [damaged, lost, whole])] == [[], [], []]
    leave_daemon(root)


def test_a_run_that_goes_on_is_not_compared_and_no_reason_to_write_it_again(served, capsys):
    uid = str(uuid.uuid4())
    served.journal("start", {"uid": uid, "time": time.time(), "plan_name": "count"})
    try:
        assert catalog_care.verify(served.directory.root, [uid], json_output=False) == 1
    finally:
        served.journal(
            "stop", {"uid": str(uuid.uuid4()), "run_start": uid, "time": time.time(), "exit_status": "success"}
        )
    told = " ".join(capsys.readouterr().out.split())
    assert f"Run {uid} cannot be compared: the run cannot be read: it goes on or is still to be delivered" in told
    assert "replay" not in told
    served.wait_delivered(uid)
    assert [differences for _, differences in maintenance.verify(served.directory.root, [uid])] == [[]]


def test_a_run_whose_journal_is_damaged_stays_in_the_catalog(RE, served, devices, capsys):
    _, det = devices
    uid = record(RE, served, count([det], 2))
    root = served.directory.root
    journal = find_journal(root, uid)
    kept = journal.read_bytes()
    for content in (kept[:-9], gzip.compress(gzip.decompress(kept).replace(b'{"name":"event"', b"garbage", 1))):
        journal.write_bytes(content)
        with pytest.raises(JournalCorrupt):
            maintenance.replay(root, [uid], rewrite=True)
        assert catalog_care.replay(root, [uid], rewrite=True, json_output=False) == 1
        assert catalog_care.verify(root, [uid], json_output=False) == 1
        told = " ".join(capsys.readouterr().out.split())
        assert f"Left as it is: {journal}:" in told
        assert f"Run {uid} cannot be compared: the journal cannot be read: {journal}:" in told
        assert "Restore damaged journals from a backup" in told
        assert "replay --rewrite" not in told
        assert served.catalog()[uid]["primary"].read()["det"].shape == (2,)
    journal.write_bytes(kept)
    assert [differences for _, differences in maintenance.verify(root, [uid])] == [[]]
    leave_daemon(root)
