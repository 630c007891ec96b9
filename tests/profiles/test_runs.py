"""`tandem runs ...` and `tandem catalog ...` as people use them, on one served catalog."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from signal import SIGINT

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count, grid_scan, scan
from ophyd.sim import SynAxis, SynGauss, SynSignal
from rich.console import Console
from rich.text import Text

from catalog import CatalogSession, ExportError, NoCatalog, UnknownRun, annotations_of
from catalog.databroker_profile import ProfileError, write_profile
from catalog.journal import Journal
from catalog.launch import leave_daemon
from profiles import catalog_care, runs
from profiles.runs_annotate import NoAnnotation, add
from profiles.runs_compare import compare_runs
from profiles.runs_export import export
from profiles.runs_picture import NothingToPlot
from profiles.runs_plot import plot_run
from profiles.runs_watch import watch_run

pytestmark = pytest.mark.server


class Past:
    """A data directory with a scan, a map and images; what commands print is in `text`."""

    def __init__(self, session: CatalogSession) -> None:
        self.session = session
        self.root = session.directory.root
        self.catalog = session.catalog(wait=60.0)
        self.uids: list[str] = []
        engine = RunEngine({})
        engine.subscribe(session.journal)
        x, y = SynAxis(name="x"), SynAxis(name="y")
        det = SynGauss("det", x, "x", center=0.2, Imax=1, sigma=0.5)
        image = SynSignal(name="image", func=lambda: np.arange(1200, dtype="u2").reshape(40, 30))
        for plan in (scan([det], x, -1, 1, 9), grid_scan([det], y, 0, 2, 3, x, -1, 1, 5, True), count([image], 3)):
            sample = {"sample": f"S{len(self.uids)}", "operator": "ada"}
            self.uids += engine(plan, **sample)
        self.scan, self.map, self.images = self.uids
        for uid in self.uids:
            session.wait_delivered(uid)

    def printed(self, command, *arguments, expect=0, **options) -> str:
        console = Console(file=io.StringIO(), width=100)
        assert command(self.root, *arguments, catalog=self.catalog, console=console, **options) == expect
        return console.file.getvalue()


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    with CatalogSession(tmp_path_factory.mktemp("past") / "data") as session:
        yield Past(session)


def test_the_list_has_the_latest_first_and_filters(past, capsys):
    text = past.printed(runs.list_runs, 20)
    assert text.index(past.images[:8]) < text.index(past.map[:8]) < text.index(past.scan[:8])
    assert "grid_scan" in text
    assert past.printed(runs.list_runs, 1).count("success") == 1
    text = past.printed(runs.list_runs, 20, sample="S1", since="1 hour")
    assert past.map[:8] in text
    assert past.scan[:8] not in text
    assert past.printed(runs.list_runs, 20, plan="nothing", expect=1) == "No run matches.\n"
    text = past.printed(runs.list_runs, 20, motor="y", where={"num_points": 15})
    assert past.map[:8] in text
    assert past.scan[:8] not in text
    past.printed(runs.list_runs, 2, json_output=True)
    assert [run["uid"] for run in json.loads(capsys.readouterr().out)] == [past.images, past.map]


def test_entries_of_the_start_document_are_asked_for_on_the_command_line(past, typed, capsys):
    def listed(*options):
        done = typed("runs", "--json", "--data-dir", past.root, *options)
        return done, [run["uid"] for run in json.loads(done.stdout.splitlines()[-1])] if done.stdout else []

    assert listed("--where", "num_points=15", "--detector", "det")[1] == [past.map]
    assert set(listed("--where", "plan_args.num=3")[1]) == {past.images}
    assert listed("--where", "num_points=16")[0].returncode == 1
    assert "'autumn' is no KEY=VALUE, as in campaign=autumn" in listed("--where", "autumn")[0].stderr
    assert "'plan' is asked for with an option of its own" in listed("--where", "plan=scan")[0].stderr


@pytest.mark.parametrize("which", ["-2", "2", "beginning"])
def test_a_run_is_shown_with_everything_known_of_it(past, which):
    text = past.printed(runs.show_run, past.map[:8] if which == "beginning" else which)
    for expected in (past.map, "grid_scan", "S1", "ada", "success", "primary", "SIM:det"):
        assert expected in text
    facts = {"generation": "v4", "driver": "devices.v4.newport_1830c.Newport1830C", "wire": "/dev/ttyUSB0"}
    for width in (80, 300):
        shown = Console(file=io.StringIO(), width=width)
        shown.print(runs._instruments_table({"power_v4": facts}, width))
        assert all(fact in shown.file.getvalue() for fact in facts.values()), "a name that is cut short says nothing"


@pytest.mark.parametrize("width", [60, 80])
def test_what_is_shown_fits_a_narrow_terminal(past, width):
    for command, arguments in ((runs.list_runs, ()), (runs.show_run, ("-1",)), (compare_runs, ("-1", "-2"))):
        console = Console(file=io.StringIO(), width=width, force_terminal=True, _environ={"TERM": "xterm"})
        command(past.root, *arguments, catalog=past.catalog, console=console)
        lines = [Text.from_ansi(line).plain for line in console.file.getvalue().splitlines()]
        assert max(map(len, lines)) <= width
        assert all(any(uid[:8] in line for line in lines) for uid in past.uids) or command is not runs.list_runs
        if command is runs.show_run:
            assert any("SIM:image" in line and "primary" in line for line in lines)


def test_results_and_troubles_of_wires_are_shown(past, capsys):
    with CatalogSession(past.root) as session:
        engine = RunEngine({})
        engine.subscribe(session.journal)
        (uid,) = engine(with_results())
        session.wait_delivered(uid)
    text = past.printed(runs.show_run, uid)
    assert "Result: peak" in text
    assert re.search(r"centre +45\.02 ± 0\.03 deg", text)
    assert "Troubles of the wires" in text
    assert "no reply within 2 s" in text
    past.printed(runs.show_run, uid, json_output=True)
    details = json.loads(capsys.readouterr().out)
    assert details["results"]["peak"] == [{"signal": "det", "centre": 45.02, "centre_error": 0.03}]


def with_results():
    import bluesky.plan_stubs as bps

    yield from bps.open_run({"plan_name": "with results"})
    peak = {"signal": "det", "centre": 45.02, "centre_error": 0.03}
    for stream, values in (("result_peak", peak), ("wires", {"wire": "/dev/ttyS1", "what": "no reply within 2 s"})):
        signals = [SynSignal(name=name, func=lambda value=value: value) for name, value in values.items()]
        for signal in signals:
            original = signal.describe

            def describe(original=original, name=signal.name):
                described = original()
                if name.startswith("centre"):
                    described[name]["units"] = "deg"
                return described

            signal.describe = describe
        yield from bps.trigger_and_read(signals, name=stream)
    yield from bps.close_run()


def test_plots_are_drawn_in_the_terminal_and_into_files(past, tmp_path):
    text = past.printed(plot_run, past.scan)
    assert "scan 1 scan S0" in text
    assert any("⠀" < letter <= "⣿" for letter in text)
    assert "det: " in past.printed(plot_run, past.map)
    assert "3 of 3" in past.printed(plot_run, past.images)
    assert "2 of 3" in past.printed(plot_run, past.images, frame=1)
    assert "x" in past.printed(plot_run, past.map, x="y", y=["x"])
    for number, uid in enumerate(past.uids):
        past.printed(plot_run, uid, output=tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"y": ["nothing"]}, NothingToPlot, "has no column 'nothing'. It has: det, x"),
        ({"stream": "baseline"}, NothingToPlot, "has no stream 'baseline'. It has: primary"),
        ({"output": "run.txt"}, ExportError, "is no picture: let it end in .png"),
        ({"output": "nowhere/run.png"}, ExportError, "There is no folder"),
    ],
)
def test_what_cannot_be_plotted_is_told(past, tmp_path, options, error, message):
    if "output" in options:
        options = {"output": tmp_path / options["output"]}
    with pytest.raises(error, match=message):
        past.printed(plot_run, past.scan, **options)
    with pytest.raises(NothingToPlot, match=r"has no image 7 of 'image': it has 3"):
        past.printed(plot_run, past.images, frame=7)


def test_exports_say_what_they_left_out(past, tmp_path):
    text = past.printed(export, past.images, tmp_path / "run.csv")
    assert "3 events of run" in text
    assert "Left out: image (each value is an array of 40 x 30; HDF5 and Parquet hold them)" in text
    past.printed(export, past.images, tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["entry/primary/image"].shape == (3, 40, 30)


def test_runs_are_compared_in_metadata_and_columns(past, tmp_path, capsys):
    text = past.printed(compare_runs, past.scan, past.map, output=None)
    assert "plan_name" in text
    assert "grid_scan" in text
    assert "deviation" in text
    assert "metadata are the same" in past.printed(compare_runs, past.scan, past.scan, output=tmp_path / "both.png")
    assert (tmp_path / "both.png").exists()
    past.printed(compare_runs, past.scan, past.map, json_output=True)
    found = json.loads(capsys.readouterr().out)
    assert found["metadata"]["sample"] == ["S0", "S1"]
    assert found["columns"][0]["x"]["points"] == 9
    assert found["columns"][0]["x"]["largest"] == 1.0


def test_notes_and_tags_are_added_and_taken_away(past):
    assert "has 1 note; tags: none" in past.printed(add, past.scan, note="good", author="grace")
    assert "tags: fig 2, paper" in past.printed(add, past.scan, tags=["paper", "fig 2"])
    assert "tags: fig 2" in past.printed(add, past.scan, untag=["paper"])
    assert [note.author for note in annotations_of(past.root, past.scan).notes] == ["grace"]
    with pytest.raises(NoAnnotation, match="cannot be a tag"):
        past.printed(add, past.scan, tags=[" "])


def test_unknown_runs_and_places_are_told(past, tmp_path, typed):
    with pytest.raises(UnknownRun, match="There is no run 'zzzz'"):
        past.printed(runs.show_run, "zzzz")
    told = typed("runs", "show", "zzzz", "--data-dir", past.root)
    assert told.returncode == 1
    assert told.stderr == (
        f"tandem: There is no run 'zzzz' in {past.root}. Give a scan number, the beginning of a uid, or -1 for the "
        "latest: 'tandem runs list' shows them.\n"
    )
    (tmp_path / "file").write_text("a file")
    for place in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(NoCatalog, match=r"There is no catalog in .*Give the data directory that a session"):
            runs.list_runs(place)
        with pytest.raises(NoCatalog):
            watch_run(place)


def test_a_run_is_watched_from_before_it_begins_to_its_end(tmp_path, wait_for):
    console = Console(file=io.StringIO(), width=100)
    codes = []
    with Journal(tmp_path / "data") as journal:
        watching = threading.Thread(target=lambda: codes.append(watch_run(tmp_path / "data", console=console)))
        watching.start()
        wait_for(lambda: "Waiting for a run" in console.file.getvalue())
        engine = RunEngine({})
        engine.subscribe(journal)
        x = SynAxis(name="x")
        engine(scan([SynGauss("det", x, "x", center=0, Imax=1)], x, 0, 1, 5))
        watching.join(20)
    text = console.file.getvalue()
    assert codes == [0]
    lines = [line.split() for line in text.splitlines()]
    assert ["event", "time", "x", "det"] in lines
    assert [line[0] for line in lines if len(line) == 5 and line[2] == "s"] == ["1", "2", "3", "4", "5"]
    assert "5 events in" in text
    assert "success" in text


def one_point(journal):
    """Record the beginning of a run; return its first event."""
    journal("start", {"uid": "5a9d", "time": 1.0, "plan_name": "count"})
    data_keys = {"x": {"source": "test", "dtype": "number", "shape": []}}
    about = {"run_start": "5a9d", "time": 1.0, "name": "primary", "configuration": {}, "hints": {}}
    journal("descriptor", {"uid": "d", "data_keys": data_keys, "object_keys": {}, **about})
    about = {"descriptor": "d", "time": 2.0, "timestamps": {"x": 2.0}, "filled": {}}
    event = {"uid": "e1", "seq_num": 1, "data": {"x": 4.5}, **about}
    journal("event", event)
    return event


def test_watching_a_session_that_dies_ends_too(tmp_path, wait_for):
    console = Console(file=io.StringIO(), width=100)
    codes = []
    journal = Journal(tmp_path / "data")
    one_point(journal)
    watching = threading.Thread(target=lambda: codes.append(watch_run(tmp_path / "data", "5a", console=console)))
    watching.start()
    with pytest.raises(UnknownRun, match=r"There is no run 'ff' in .* that goes on"):
        watch_run(tmp_path / "data", "ff", console=console)
    wait_for(lambda: "4.5" in console.file.getvalue(), timeout=20)
    journal.close()
    watching.join(20)
    assert codes == [1]
    assert "The session ended without closing the run." in console.file.getvalue()


def test_ctrl_c_ends_the_watching_and_the_run_goes_on(tmp_path, tandem):
    with Journal(tmp_path / "data") as journal:
        event = one_point(journal)
        command = tandem("runs", "watch", "-d", tmp_path / "data")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert any("4.5" in line for line in watching.stdout)
            watching.send_signal(SIGINT)
            assert watching.communicate(timeout=50)[1] == ""
        assert watching.returncode == 130
        assert journal.open_runs == ["5a9d"]
        journal("event", {**event, "uid": "e2", "seq_num": 2, "data": {"x": 5.5}})


def test_status_verify_and_replay_tell_how_the_catalog_stands(past, capsys):
    assert catalog_care.show_status(past.root, json_output=False) == 0
    assert "ready, http://127.0.0.1" in capsys.readouterr().out
    assert catalog_care.verify(past.root, [past.scan], json_output=False) == 0
    assert "1 run compared, 0 with differences" in capsys.readouterr().out
    run = past.catalog[past.scan]
    run.update_metadata({"start": {**run.metadata["start"], "plan_name": "other"}})
    assert catalog_care.verify(past.root, [past.scan], json_output=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == {past.scan: ["start: plan_name: emitted 'scan', stored 'other'"]}
    assert catalog_care.replay(past.root, [past.scan], rewrite=True, json_output=True) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": [past.scan], "damaged": []}
    assert catalog_care.verify(past.root, [past.scan], json_output=False) == 0
    assert catalog_care.compact_catalog(past.root, json_output=False) == 0
    assert "Left as they are: databases and arrays (the server runs" in capsys.readouterr().out
    leave_daemon(past.root)


OLD_SCRIPT = """
import databroker, sys
from databroker import Broker
db = Broker.named("mylab")
print(list(db[sys.argv[1]].table()["x"]), db[-1].start["uid"] != "")
catalog = databroker.catalog["mylab"]
print(type(catalog[sys.argv[1]]["primary"].read()).__name__, len(catalog.search(sample="S1")))
"""


def test_old_scripts_find_the_catalog_by_its_name(past, tmp_path):
    profiles = tmp_path / "profiles"
    path = write_profile(past.root, "mylab", folder=profiles)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ProfileError, match=r"There is a profile 'mylab' already: .*Give another name, or replace it"):
        write_profile(past.root, "mylab", folder=profiles)
    with pytest.raises(ProfileError, match="cannot be the name of a profile"):
        write_profile(past.root, "../x", folder=profiles)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OLD_SCRIPT, past.map],
        env={**os.environ, "TILED_PROFILES": str(profiles), "TILED_API_KEY": "of another server"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "[-1.0, -0.5, 0.0, 0.5, 1.0, 1.0" in done.stdout.replace("np.float64(", "").replace(")", "")
    assert "Dataset 1" in done.stdout
    leave_daemon(past.root)


def test_the_command_takes_a_run_alone_for_show_and_nothing_for_list(past, typed):
    for arguments, expected in (
        (["runs", "-d", past.root], "grid_scan"),
        (["runs", "2", "--data-dir", past.root], past.map),
        (["runs", "--since", "noonish", "-d", past.root], "'noonish' is no time that is understood"),
    ):
        done = typed(*arguments)
        assert expected in done.stdout + done.stderr
    leave_daemon(past.root)


def test_a_run_that_goes_on_is_told_how_far_it_is(past, wait_for):
    """The last one: the others count on which runs there are."""
    engine = RunEngine({})
    engine.subscribe(past.session.journal)
    det = SynSignal(name="det", func=lambda: 1.5)
    seen = {}

    def row():
        return past.printed(runs.list_runs, 1).splitlines()[3]

    @bpp.run_decorator(md={"plan_name": "watched"})
    def plan():
        for _ in range(3):
            yield from bps.trigger_and_read([det])
        wait_for(lambda: "watched" in row() and "│ 3 " in row(), timeout=20.0)
        seen["row"], seen["shown"] = row(), past.printed(runs.show_run, "-1")

    engine(plan())
    assert "going on" in seen["row"]
    assert re.search(r"ended +going on", seen["shown"])
    assert re.search(r"primary +│ +3 +│ det", seen["shown"])
    past.session.wait_delivered(past.catalog[-1].metadata["start"]["uid"])
    assert "success" in row()
