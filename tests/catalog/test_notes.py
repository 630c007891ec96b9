"""Notes and tags are kept beside the runs, by many writers, through everything that happens to the catalog."""

from __future__ import annotations

import json
import multiprocessing

import pytest
from bluesky.plans import count
from ophyd.sim import SynSignal

from catalog import UnknownRun, annotate, annotations_of, maintenance, search_runs
from catalog.directory import DataDirectory
from catalog.journal import Journal
from catalog.launch import leave_daemon
from catalog.notes import NotesCorrupt, annotated_runs, wait_annotated
from catalog.verify import compare_run


@pytest.fixture
def recorded(data_dir):
    """A data directory with one run, and no server."""
    with Journal(data_dir) as journal:
        journal("start", {"uid": "5a9d-first", "time": 1.0})
        journal("stop", {"uid": "x", "run_start": "5a9d-first", "time": 2.0, "exit_status": "success"})
    return data_dir


def test_notes_and_tags_add_up_without_a_server(recorded):
    annotate(recorded, "5a9d", note=" looks odd \n", author="ada")
    annotate(recorded, "5a9d-first", tags=["paper", "figure 2"], author="grace")
    now = annotate(recorded, "5a9d-first", untag=["paper"], tags=["état"])
    assert [(note.author, note.text) for note in now.notes] == [("ada", "looks odd")]
    assert now.tags == ("figure 2", "état")
    assert annotations_of(recorded, "5a9d-first") == annotations_of(recorded, "5a9d") == now
    assert annotated_runs(recorded) == ["5a9d-first"]


def test_a_run_without_notes_has_none(recorded):
    assert annotations_of(recorded, "5a9d-first").as_metadata() == {"notes": [], "tags": []}


def test_only_runs_that_exist_can_be_annotated(recorded):
    with pytest.raises(UnknownRun, match="There is no run 'other'"):
        annotate(recorded, "other", note="?")
    with pytest.raises(UnknownRun, match="There is no run 'other'"):
        annotations_of(recorded, "other")
    assert not (recorded / "notes" / "other.jsonl").exists()


@pytest.mark.parametrize("words", [{"tags": [""]}, {"tags": [" a"]}, {"untag": ["a\nb"]}, {"note": "  "}, {}])
def test_nothing_and_blanks_are_refused(recorded, words):
    with pytest.raises(ValueError, match=r"cannot be a tag|Give a note or a tag"):
        annotate(recorded, "5a9d", **words)


def test_a_line_torn_by_a_kill_is_passed_over_and_cut_off(recorded):
    annotate(recorded, "5a9d", note="first")
    path = recorded / "notes" / "5a9d-first.jsonl"
    with path.open("a") as file:
        file.write('{"time": 1, "auth')
    assert [note.text for note in annotations_of(recorded, "5a9d-first").notes] == ["first"]
    annotate(recorded, "5a9d", note="second")
    assert [note.text for note in annotations_of(recorded, "5a9d-first").notes] == ["first", "second"]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_damaged_line_is_named(recorded):
    annotate(recorded, "5a9d", note="first")
    path = recorded / "notes" / "5a9d-first.jsonl"
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(NotesCorrupt, match=r"5a9d-first.jsonl:2: damaged line. Restore the file") as caught:
        annotations_of(recorded, "5a9d-first")
    assert (caught.value.path.name, caught.value.line) == (path.name, 2)


def write_many(data_dir, name, count):
    for number in range(count):
        annotate(data_dir, "5a9d-first", note=f"{name} {number}", tags=[f"{name}-{number}"], author=name)


def test_two_writers_lose_nothing(recorded):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(recorded, name, 40)) for name in ("ada", "grace")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    now = annotations_of(recorded, "5a9d-first")
    assert len(now.tags) == 80
    for name in ("ada", "grace"):
        assert [note.text for note in now.notes if note.author == name] == [f"{name} {n}" for n in range(40)]


@pytest.mark.server
def test_notes_can_be_searched_for_and_survive_a_rewritten_run(RE, served):
    root = served.directory.root
    token = RE.subscribe(served.journal)
    (uid,) = RE(count([SynSignal(name="det", func=lambda: 1.0)]), purpose="to be noted")
    RE.unsubscribe(token)
    annotate(root, uid, note='a "strange" dip', tags=["paper", "dip 2"], author="ada")
    served.wait_delivered(uid)
    assert wait_annotated(root, timeout=20.0)
    catalog = served.catalog()
    for words in ({"tags": "paper"}, {"tags": ["paper", "dip 2"]}, {"note": 'strange" dip'}, {"text": "dip 2"}):
        assert list(search_runs(catalog, **words)) == [uid], words
    assert list(search_runs(catalog, tags="pap")) == []
    assert list(search_runs(catalog, tags=["paper", "other"])) == []
    assert compare_run(root, catalog[uid]) == []  # the documents are as they were
    annotate(root, uid, untag=["paper"])
    assert wait_annotated(root, timeout=20.0)
    assert list(search_runs(catalog, tags="paper")) == []
    maintenance.replay(root, [uid], rewrite=True)
    served.wait_delivered(uid)
    assert wait_annotated(root, timeout=20.0)
    assert list(search_runs(served.catalog(), tags="dip 2")) == [uid]
    assert compare_run(root, served.catalog()[uid]) == []
    leave_daemon(root)


def test_waiting_for_notes_ends_when_no_daemon_comes(recorded):
    directory = DataDirectory.at(recorded)
    month = directory.journals / "2026-01"
    month.mkdir()
    directory.journal_of("5a9d-first").rename(month / "5a9d-first.jsonl.gz")
    annotate(recorded, "5a9d", note="first")
    assert wait_annotated(recorded, timeout=0.1) is False
