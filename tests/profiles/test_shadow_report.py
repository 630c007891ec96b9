"""From runs with shadow readings to verdicts, pictures and evidence, as a user asks for them."""

import json
import os
import time

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plan_stubs import null
from bluesky.plans import count

from catalog import Journal, find_journal
from catalog.directory import DataDirectory
from catalog.errors import ExportError
from catalog.journal import compress_journal
from coexistence.config import DualConfig
from coexistence.migration.evidence import evidence
from plans.shadow import shadowed
from profiles.shadow_evidence import NoShadow, NoSuchSignal, Tolerances, shadowed_instruments
from profiles.shadow_mode import ShadowMode
from profiles.shadow_report import report_shadow, view, watch_shadow


class Meter:
    """Reads a truth that swings several times in every run, with a little noise and a scale of its own."""

    parent = None

    def __init__(self, name, scale=1.0, word="AUTO"):
        self.name = name
        self._scale = scale
        self._word = word
        self._random = np.random.default_rng(len(name))

    def read(self):
        now = time.time()
        value = self._scale * (1.0 + 0.3 * np.sin(20 * now)) * (1 + 1e-3 * self._random.normal())
        return {
            f"{self.name}_power": {"value": float(value), "timestamp": now},
            f"{self.name}_range": {"value": self._word, "timestamp": now},
        }

    def describe(self):
        return {
            f"{self.name}_power": {"source": "test", "dtype": "number", "shape": [], "units": "W"},
            f"{self.name}_range": {"source": "test", "dtype": "string", "shape": []},
        }


def measure(data_dir, twins, points=100, original=None, **facts):
    """Record one run with shadow readings and return its uid."""
    original = original or Meter("power")
    run_engine = RunEngine({"instruments": {"power": facts}}, call_returns_result=True)
    journal = Journal(data_dir)
    run_engine.subscribe(journal)
    plan = shadowed(count([original], points), [(original, twin) for twin in twins], budget=1.0)
    uid = run_engine(plan).run_start_uids[0]
    journal.close()
    return uid


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A data directory with two runs of an instrument and a sound twin, and one run without a shadow."""
    data_dir = tmp_path_factory.mktemp("sound")
    uids = [measure(data_dir, [Meter("power_v4")]) for _ in range(2)]
    run_engine = RunEngine()
    journal = Journal(data_dir)
    run_engine.subscribe(journal)
    run_engine(count([Meter("power")], 1))
    journal.close()
    return data_dir, uids


LOOSE = Tolerances.parse(["1%"], outlier_rate=0.1)


def report(data_dir, capsys, run=None, tolerances=LOOSE, **options):
    options = {"since": None, "picture": None, "json_output": False, **options}
    code = report_shadow(data_dir, run, tolerances=tolerances, **options)
    return code, capsys.readouterr().out


def test_all_runs_of_a_sound_pair_are_equivalent_and_kept_as_evidence(sound, capsys, tmp_path):
    data_dir, uids = sound
    picture = tmp_path / "pictures" / "shadow.png"
    code, printed = report(data_dir, capsys, picture=picture)
    assert code == 0
    assert "power (v2) and its shadow power_v4 (v4), 2 runs" in printed
    assert "power_power: equivalent" in printed
    assert "power_range: equivalent" in printed
    assert picture.read_bytes()[:4] == b"\x89PNG"
    found = evidence(data_dir, "power")
    assert (found.verdict, found.shadow, set(found.runs)) == ("equivalent", "power_v4", set(uids))
    assert found.signals["power"].tolerance == pytest.approx(0.01 * 1.3, rel=0.2)
    assert str(found).startswith("equivalent: power within ")


def test_a_report_about_one_run_is_not_kept(sound, capsys):
    data_dir, uids = sound
    report(data_dir, capsys)
    before = evidence(data_dir, "power").time
    code, printed = report(data_dir, capsys, run=uids[0][:8], tolerances=Tolerances())
    assert code == 2
    assert "1 run" in printed
    assert "insufficient evidence (" in printed
    assert " of 919): a wrong reading in 200 could still have been missed" in " ".join(printed.split())
    assert evidence(data_dir, "power").time == before


def test_json_has_everything(sound, capsys):
    _, printed = report(sound[0], capsys, json_output=True)
    (instrument,) = json.loads(printed)
    assert (instrument["instrument"], instrument["shadow"], instrument["generation"]) == ("power", "power_v4", "v2")
    assert [signal["signal"] for signal in instrument["signals"]] == ["power_power", "power_range"]
    assert instrument["signals"][0]["verdict"] == "equivalent"


def test_faults_are_told_and_are_evidence_against(tmp_path, capsys):
    measure(tmp_path, [Meter("power_v4", scale=1.02, word="FIXED")])
    code, printed = report(tmp_path, capsys)
    assert code == 1
    assert "power_power: different because its scale is 1.0" in printed
    assert "values are others, such as 'FIXED' for 'AUTO'" in " ".join(printed.split())
    found = evidence(tmp_path, "power")
    assert found.verdict == "different"
    assert "power_power: its scale is 1.0" in found.reason


def test_a_run_that_is_compressed_just_now_counts_once(sound):
    data_dir, uids = sound
    (before,) = shadowed_instruments(data_dir)
    directory = DataDirectory.at(data_dir)
    plain = find_journal(data_dir, uids[0])
    kept, written = plain.read_bytes(), plain.stat()
    packed = compress_journal(directory, plain)
    draft = packed.with_name(packed.name + ".new")
    draft.write_bytes(packed.read_bytes()[:100])
    plain.write_bytes(kept)
    os.utime(plain, ns=(written.st_atime_ns, written.st_mtime_ns))
    try:
        (meanwhile,) = shadowed_instruments(data_dir)
    finally:
        draft.unlink()
        packed.unlink()
    assert meanwhile.runs == before.runs == uids
    counted = [len(each.signals["power_power"].pairs.original) for each in (before, meanwhile)]
    assert counted[0] == counted[1] > 0


def test_columns_have_tolerances_of_their_own(tmp_path, capsys):
    measure(tmp_path, [Meter("power_v4", scale=1.02)])
    tolerances = Tolerances.parse(["power_power=5%"], outlier_rate=0.1)
    code, printed = report(tmp_path, capsys, tolerances=tolerances)
    assert code == 0
    assert "5 %" in printed


def test_readings_of_simulated_instruments_are_left_out_once_there_are_real_ones(tmp_path):
    measure(tmp_path, [Meter("twin")], points=60, simulated=True)
    (found,) = shadowed_instruments(tmp_path)
    assert found.simulated
    real = measure(tmp_path, [Meter("twin")], points=60)
    measure(tmp_path, [Meter("twin")], points=60, simulated=True)
    (found,) = shadowed_instruments(tmp_path)
    assert (found.simulated, found.runs) == (False, [real])


def test_a_tolerance_of_a_signal_that_nobody_read_is_refused(sound, capsys):
    with pytest.raises(NoSuchSignal) as error:
        report(sound[0], capsys, tolerances=Tolerances.parse(["power=1%"]))
    assert str(error.value) == (
        "no shadow has read 'power', for which a tolerance is given; read were power_power, power_range"
    )


def test_a_picture_that_cannot_be_drawn_is_refused_in_words(sound, capsys, tmp_path):
    with pytest.raises(ExportError, match=r"'shadow' is no picture: let it end in \.png"):
        report(sound[0], capsys, picture=tmp_path / "shadow")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(ExportError, match=r"taken\.png' cannot be written: Is a directory"):
        report(sound[0], capsys, picture=tmp_path / "taken.png")


@pytest.mark.parametrize("text", ["", "much", "power=", "1%%", "1+"])
def test_a_tolerance_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match="is no tolerance: write a share such as 1%"):
        Tolerances.parse([text])


def test_runs_without_shadows_say_what_to_do(tmp_path, capsys):
    run_engine = RunEngine()
    journal = Journal(tmp_path)
    run_engine.subscribe(journal)
    run_engine(count([Meter("power")], 1))
    journal.close()
    with pytest.raises(NoShadow) as error:
        report(tmp_path, capsys)
    assert str(error.value) == (
        f"none of the 1 runs looked at in {tmp_path} has shadow readings: give an instrument of the other generation "
        'shadow_of = "<id>" in the configuration, or wrap a plan in plans.shadowed, and measure'
    )
    with pytest.raises(NoShadow):
        shadowed_instruments(tmp_path, since=time.time() + 60)


def test_a_run_that_goes_on_can_be_watched(sound, monkeypatch):
    shown = []

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("profiles.shadow_report.view", lambda compared: shown.append(compared) or view(compared))
    monkeypatch.setattr(time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        watch_shadow(sound[0], None, since=None, tolerances=LOOSE)
    assert shown[0][0][0].original == "power"


def shadow_config(**application):
    meter = {"type": "Newport1830C", "serial_port": "/dev/ttyUSB0"}
    return DualConfig.from_mapping(
        {
            "application": application,
            "v2": {"instruments": [{"id": "power", **meter}]},
            "v4": {"instruments": [{"id": "power_v4", "shadow_of": "power", **meter}]},
        }
    )


def test_the_configuration_names_pairs_that_join_as_they_connect():
    devices = {"power": Meter("power")}
    mode = ShadowMode(shadow_config(), devices)
    assert mode.pairs() == []
    devices["power_v4"] = Meter("power_v4")
    (pair,) = mode.pairs()
    assert (pair.original.name, pair.twin.name) == ("power", "power_v4")
    documents = []
    RunEngine()(mode(count([devices["power"]], 1)), lambda name, document: documents.append(document))
    assert documents[0]["shadow"] == {"power_v4": "power"}
    assert next(iter(mode(null()))).command == "null"


def test_what_cannot_be_compared_is_told_once():
    class Camera(Meter):
        def collect_asset_docs(self):
            return []

    told = []
    devices = {"power": Camera("power"), "power_v4": Camera("power_v4")}
    mode = ShadowMode(shadow_config(), devices, told.append)
    assert mode.pairs() == mode.pairs() == []
    assert len(told) == 1
    assert told[0].startswith("'power_v4' cannot be the shadow of 'power': cameras make images")
