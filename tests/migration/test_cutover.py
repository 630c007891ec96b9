"""Cutover and rollback: one instrument changes generation in its file, and nothing else does."""

import io
import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from coexistence.migration import Evidence, SignalEvidence, evidence, write_evidence
from coexistence.migration.cutover import CannotSwitch, switch
from coexistence.migration.edit import CannotEdit
from coexistence.migration.replace_file import FileChanged
from profiles.configuration import find_configuration
from profiles.migration import load_files
from profiles.migration_status import migration_status
from profiles.v2_reminder import remind_of_v2

BENCH = """\
# the bench in room 112
[v2]
shutdown_timeout = 20.0   # s

# behind the analyzer
[[v2.instruments]]
id = "power"          # a name everybody knows
type = "Newport1830C"
serial_port = "/dev/ttyS0"   # near the door

[[v2.instruments]]
id = "supply"
type = "ScpiInstrument"
resource = "GPIB0::5::INSTR"
[v2.instruments.signals.current]   # what is measured
query = "MEAS:CURR?"

[[v4.instruments]]
id = "hwp"
type = "Elliptec"
serial_port = "/dev/ttyUSB1"
address = "2"
"""
TWIN = """\

# compares
[[v4.instruments]]
id = "power_shadow"
type = "Newport1830C"
serial_port = "/dev/ttyS0"
shadow_of = "power"
"""
GOOD = Evidence(
    instrument="power", shadow="power_shadow", verdict="equivalent", n=240, needed=200, runs=("a", "b"), time=1.8e9
)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    path = tmp_path / "bench.toml"
    path.write_text(BENCH)
    return path


def generations(*paths: Path) -> dict[str, str]:
    return {instrument.id: generation for generation, instrument in load_files(paths).instruments()}


def changed_lines(before: str, after: str) -> list[str]:
    old, new = before.splitlines(), after.splitlines()
    return [f"- {line}" for line in old if line not in new] + [f"+ {line}" for line in new if line not in old]


def test_an_instrument_moves_where_it_stands_and_everything_else_stays(bench: Path):
    done = switch([bench], "power", "v4", load_files, evidence=GOOD)
    assert generations(bench) == {"supply": "v2", "power": "v4", "hwp": "v4"}
    assert changed_lines(BENCH, bench.read_text()) == [
        f'+ migrated = {{from = "v2", on = {done.on.replace("+00:00", "Z")}, evidence = "equivalent"}}'
    ]
    assert bench.read_text().splitlines()[4:7] == [
        "# behind the analyzer", "[[v4.instruments]]", 'id = "power"          # a name everybody knows'
    ]  # fmt: skip


def test_inner_tables_move_with_their_instrument(bench: Path):
    switch([bench], "supply", "v4", load_files)
    assert "[v4.instruments.signals.current]   # what is measured" in bench.read_text()
    assert generations(bench)["supply"] == "v4"


def test_the_way_back_leaves_nothing_but_the_record(bench: Path):
    switch([bench], "power", "v4", load_files)
    done = switch([bench], "power", "v2", load_files)
    stamp = done.on.replace("+00:00", "Z")
    assert changed_lines(BENCH, bench.read_text()) == [f'+ migrated = {{from = "v4", on = {stamp}, evidence = "none"}}']
    assert generations(bench)["power"] == "v2"


def test_a_twin_changes_roles_with_its_original(bench: Path):
    bench.write_text(BENCH + TWIN)
    done = switch([bench], "power", "v4", load_files, evidence=GOOD)
    assert done.shadow == "power_shadow"
    config = load_files([bench])
    assert generations(bench) == {"power_shadow": "v2", "supply": "v2", "hwp": "v4", "power": "v4"}
    assert [(i.id, i.shadow_of) for _, i in config.instruments() if i.shadow_of] == [("power_shadow", "power")]
    power = next(i for i in config.v4.instruments if i.id == "power")
    assert power.migrated is not None
    assert (power.migrated.from_, power.migrated.evidence) == ("v2", "equivalent")
    switch([bench], "power", "v2", load_files)
    assert generations(bench) == {"power": "v2", "supply": "v2", "hwp": "v4", "power_shadow": "v4"}
    assert set(changed_lines(BENCH + TWIN, bench.read_text())) <= {
        line for line in changed_lines("", bench.read_text()) if "migrated" in line
    }


def test_a_twin_that_was_switched_off_is_used_after_the_cutover(bench: Path):
    bench.write_text(BENCH + TWIN + "enabled = false\n")
    switch([bench], "power", "v4", load_files)
    assert generations(bench)["power"] == "v4"


def test_an_instrument_said_in_several_files_moves_in_all_of_them(bench: Path, tmp_path: Path):
    here = tmp_path / "here.toml"
    here.write_text('# this room\n[[v2.instruments]]\nid = "power"\nserial_port = "/dev/ttyS7"\n')
    other = tmp_path / "other.toml"
    other.write_text('[application]\nname = "here"\n')
    done = switch([bench, here, other], "power", "v4", load_files)
    assert done.files == (bench, here)
    config = load_files([bench, here, other])
    assert [(i.id, i.serial_port) for i in config.v4.instruments if i.id == "power"] == [("power", "/dev/ttyS7")]
    assert here.read_text() == '# this room\n[[v4.instruments]]\nid = "power"\nserial_port = "/dev/ttyS7"\n'


def test_permissions_and_links_survive(bench: Path, tmp_path: Path):
    bench.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(bench)
    done = switch([link], "power", "v4", load_files)
    assert done.files == (bench,)
    assert link.is_symlink()
    assert bench.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.toml", "link.toml"]


def test_line_endings_of_another_system_survive(bench: Path):
    bench.write_bytes(BENCH.replace("\n", "\r\n").encode())
    switch([bench], "power", "v4", load_files)
    assert bench.read_bytes().count(b"\r\n") == bench.read_bytes().count(b"\n") == BENCH.count("\n") + 1


def test_a_byte_order_mark_survives(bench: Path):
    bench.write_bytes(b"\xef\xbb\xbf" + bench.read_bytes())
    switch([bench], "power", "v4", load_files)
    assert bench.read_bytes().startswith(b"\xef\xbb\xbf# the bench")
    assert generations(bench)["power"] == "v4"


def test_a_file_somebody_changes_meanwhile_is_left_alone(bench: Path):
    calls = []

    def load_and_interfere(paths):
        config = load_files(paths)
        calls.append(paths)
        if len(calls) == 2:  # the drafts are being checked
            bench.write_text(BENCH + "# and one more thing\n")
        return config

    with pytest.raises(FileChanged, match="was changed by somebody else meanwhile"):
        switch([bench], "power", "v4", load_and_interfere)
    assert bench.read_text() == BENCH + "# and one more thing\n"
    assert [path.name for path in bench.parent.iterdir()] == ["bench.toml"]


def test_of_several_who_change_a_file_at_once_nobody_loses_a_change(bench: Path):
    refused: list[str] = []

    def change(instrument: str) -> None:
        for _ in range(6):
            for to in ("v4", "v2"):
                while True:
                    try:
                        switch([bench], instrument, to, load_files)
                        break
                    except FileChanged:
                        refused.append(instrument)

    people = [threading.Thread(target=change, args=(instrument,)) for instrument in ("power", "supply")]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert generations(bench) == {"power": "v2", "supply": "v2", "hwp": "v4"}
    assert bench.read_text().count("migrated = ") == 2
    assert [path.name for path in bench.parent.iterdir()] == ["bench.toml"]


def test_a_reader_sees_the_old_file_or_the_new_one(bench: Path):
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(bench.read_text())
            tomllib.loads(bench.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(5):
            switch([bench], "power", "v4", load_files)
            switch([bench], "power", "v2", load_files)
    finally:
        done.set()
        reader.join()
    for text in seen:
        assert text.startswith("# the bench in room 112")
        assert text.endswith('address = "2"\n')


@pytest.mark.parametrize(
    ("instrument", "to", "more", "message"),
    [
        ("powr", "v4", "", "'powr' stays as it is: there is no such instrument. There are: power, supply, hwp."),
        ("hwp", "v4", "", "'hwp' stays as it is: it is v4 already. See `tandem config status`."),
        (
            "power_shadow",
            "v4",
            TWIN,
            "'power_shadow' stays as it is: it is the shadow of 'power'. Switch 'power': both",
        ),
        (
            "power",
            "v4",
            "\n[v4]\nenabled = false\n",
            "[v4] is disabled, so it would not be started. Set enabled = true",
        ),
        (
            "axis",
            "v4",
            '\n[[v2.instruments]]\nid = "axis"\ntype = "ophyd.sim:SynAxis"\n',
            "nothing is known of its twin in v4. Add a [[v4.instruments]] with shadow_of",
        ),
        (
            "spare",
            "v4",
            '\n[[v2.instruments]]\nid = "spare"\ntype = "MaiTai"\nserial_port = "/dev/ttyS5"\nenabled = false\n',
            "'spare' stays as it is: it is disabled. Set enabled = true first.",
        ),
    ],
)
def test_what_cannot_change_says_why_and_nothing_is_written(
    bench: Path, instrument: str, to: str, more: str, message: str
):
    bench.write_text(BENCH + more)
    with pytest.raises(CannotSwitch) as refused:
        switch([bench], instrument, to, load_files)
    assert message in str(refused.value)
    assert bench.read_text() == BENCH + more


def test_a_profile_of_the_project_is_never_changed(tandem, tmp_path: Path):
    before = find_configuration("sim").read_text()
    done = tandem("config", "cutover", "power_v2", "sim", "--yes")
    assert done.returncode == 1
    assert done.stderr.endswith("comes with the project. Copy it, and switch the instrument in the copy.\n")
    assert find_configuration("sim").read_text() == before


def test_a_file_written_in_another_way_is_refused_with_what_to_do(bench: Path):
    inline = '[v2]\ninstruments = [{ id = "power", type = "Newport1830C", serial_port = "/dev/ttyS0" }]\n'
    bench.write_text(inline)
    with pytest.raises(CannotEdit, match=r"of instrument 'power' cannot be done here.*or change it by hand"):
        switch([bench], "power", "v4", load_files)
    assert bench.read_text() == inline


def test_a_folder_nobody_can_write_to_leaves_the_file(bench: Path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    bench.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            switch([bench], "power", "v4", load_files)
    finally:
        bench.parent.chmod(0o700)
    assert bench.read_text() == BENCH


@pytest.fixture
def tandem(
    typed: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return `tandem(*arguments)`: typed in the test's folder by nobody who could be asked something."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return typed


def test_the_command_asks_for_evidence_and_tells_the_way_back(tandem, bench: Path, tmp_path: Path):
    bench.write_text(BENCH + TWIN)
    done = tandem("config", "cutover", "power", "bench.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "power: no evidence: no shadow run of it was compared\n"
        "Switch power to v4 nevertheless? Add --yes to do it.\nNothing was changed.\n"
    )
    assert bench.read_text() == BENCH + TWIN
    write_evidence(tmp_path / "tandem-data", GOOD)
    done = tandem("config", "cutover", "power", "bench.toml")
    assert done.returncode == 0
    assert done.stdout.startswith(
        "power is v4 now, its columns keep their names; power_shadow is its shadow in v2 now. Changed: "
    )
    assert f"The way back: tandem config rollback power {bench}" in done.stdout
    done = tandem("config", "rollback", "power", "bench.toml", "--json")
    told = json.loads(done.stdout)
    assert (told["instrument_id"], told["to_generation"], told["shadow"]) == ("power", "v2", "power_shadow")


@pytest.mark.parametrize(
    ("found", "objection"),
    [
        (
            GOOD.model_copy(update={"verdict": "different", "reason": "bias 2.1 % of 1 %"}),
            "different because bias 2.1 %",
        ),
        (GOOD.model_copy(update={"verdict": "insufficient", "n": 3}), "insufficient evidence (3 of 200 pairs)"),
        (GOOD.model_copy(update={"shadow": "other"}), "the evidence is about the shadow 'other', and the twin is"),
        (GOOD.model_copy(update={"shadow_generation": "v2"}), "the evidence is about a shadow in v2"),
        (GOOD.model_copy(update={"simulated": True}), "the evidence is from simulated instruments"),
        (GOOD.model_copy(update={"instrument": "supply"}), None),
    ],
)
def test_bad_evidence_is_an_objection_that_yes_overrules(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], found: Evidence, objection: str | None
):
    from profiles.migration import run_switch

    bench.write_text(BENCH + TWIN)
    write_evidence(tmp_path, found)
    options = {"to": "v4", "data_dir": tmp_path, "json_output": True}
    assert run_switch("power", [str(bench)], sure=True, **options) == 0
    assert (objection or "no evidence") in json.loads(capsys.readouterr().out)["warnings"][0]
    migrated = next(i for i in load_files([bench]).v4.instruments if i.id == "power").migrated
    assert migrated is not None
    assert migrated.evidence == ("none" if objection is None else found.verdict)


def test_damaged_evidence_counts_as_none(tmp_path: Path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "power.json").write_text('{"instrument": "power", "verdict": "fine"}')
    found = evidence(tmp_path, "power")
    assert found.is_missing
    assert str(found) == (
        f"no evidence: {tmp_path}/shadow/power.json is damaged (verdict: Input should be 'equivalent', 'different' or "
        "'insufficient'); report again"
    )
    write_evidence(tmp_path, GOOD)
    assert evidence(tmp_path, "power") == GOOD
    assert str(GOOD).startswith("equivalent (240 pairs) in 2 runs, 2027-01-15")
    signals = {
        "power": SignalEvidence(verdict="equivalent", tolerance=1.2e-5, units="W"),
        "": SignalEvidence(verdict="equivalent", tolerance=0.1),
        "mode": SignalEvidence(verdict="equivalent"),
    }
    told = str(GOOD.model_copy(update={"signals": signals}))
    assert told.startswith("equivalent: power within 1.2e-05 W, within 0.1 (240 pairs) in 2 runs")


def test_the_status_tells_what_is_left_its_evidence_and_its_end(bench: Path, tmp_path: Path):
    day = date.today() + timedelta(days=30)
    bench.write_text((BENCH + TWIN).replace('type = "Newport', f'removal_date = {day}\ntype = "Newport', 1))
    write_evidence(tmp_path, GOOD)
    found = {one.id: one for one in migration_status(load_files([bench]), tmp_path)}
    assert {name: one.generation for name, one in found.items()} == {"power": "v2", "supply": "v2", "hwp": "v4"}
    assert (found["power"].days_left, found["power"].next_step) == (30, f"tandem config cutover power {bench}")
    assert found["supply"].next_step == f"tandem config migrate --to v2 --shadows {bench}"
    late = {one.id: one for one in migration_status(load_files([bench]), tmp_path, today=day + timedelta(days=1))}
    assert late["power"].days_left == -1


def test_the_status_command_fails_when_a_removal_date_has_passed(tandem, bench: Path, tmp_path: Path):
    bench.write_text(BENCH.replace('type = "Newport', 'removal_date = 2020-02-29\ntype = "Newport', 1))
    done = tandem("config", "status", "bench.toml")
    assert done.returncode == 1
    assert done.stdout == (
        "power is still v2: Newport1830C, no shadow, to be gone by 2020-02-29, which has passed\n"
        "  no evidence: no shadow run of it was compared\n"
        "  next: tandem config migrate --to v2 --shadows bench.toml\n"
        "supply is still v2: ScpiInstrument, no shadow, no removal date\n"
        "  no evidence: no shadow run of it was compared\n"
        "  next: tandem config migrate --to v2 --shadows bench.toml\n"
        "2 of 3 instruments are still v2\n"
    )


def test_a_session_reminds_once_of_each_v2_instrument_that_could_be_v4(bench: Path, caplog: pytest.LogCaptureFixture):
    bench.write_text(BENCH + TWIN + '\n[[v2.instruments]]\nid = "axis"\ntype = "ophyd.sim:SynAxis"\n')
    remind_of_v2(load_files([bench]))
    assert [record.getMessage() for record in caplog.records] == [
        f"power is a v2 Newport1830C; as v4 it keeps its name and columns: tandem config cutover power {bench}",
        f"supply is a v2 ScpiInstrument; as v4 it keeps its name and columns: tandem config cutover supply {bench}",
    ]
    caplog.clear()
    remind_of_v2(load_files([find_configuration("sim")]))
    assert caplog.records == []
