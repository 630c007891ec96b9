"""What the doctor finds, and what to do about it."""

import grp
import json
import os
import sys
from pathlib import Path

import pytest

from coexistence.config import DualConfig
from profiles.control import ControlServer
from profiles.doctor import environment, ports, records, run_doctor
from profiles.doctor import report as report_module
from profiles.doctor.findings import Check

METER = '[[v2.instruments]]\nid = "power"\ntype = "Newport1830C"\nserial_port = "{port}"\n'


def by_subject(checks) -> dict[str, Check]:
    return {check.subject: check for check in checks}


def on_port(port: str) -> DualConfig:
    instrument = {"id": "power", "type": "Newport1830C", "serial_port": port}
    return DualConfig.from_mapping({"v2": {"instruments": [instrument]}})


def test_this_environment_is_sound():
    checks = by_subject(environment.environment_checks())
    assert checks["python"].found.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert checks["packages"].outcome == "ok"
    assert not [check for check in checks.values() if check.outcome == "problem"]


def test_a_package_that_is_missing_or_old_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    wanted = ["numpy>=99", "no-such-package>=1.2", "rich>=1", "skipped; extra == 'dev'"]
    monkeypatch.setattr(environment, "requires", lambda _: wanted)
    checks = by_subject(environment.environment_checks())
    assert (checks["numpy"].outcome, checks["numpy"].remedy) == ("problem", "pip install -U 'numpy>=99'")
    assert checks["no-such-package"] == Check(
        "no-such-package", "problem", "missing; needed is no-such-package>=1.2", "pip install 'no-such-package>=1.2'"
    )
    assert checks["packages"].found == "1 of 3 that are needed are here, and new enough"


def test_packages_that_hide_ours_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "__init__.py").write_text("")
    (tmp_path / "catalog").mkdir()  # without __init__.py it gives way
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "devices.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(earlier), *sys.path])
    claims = {"profiles": ["ophyd-tandem", "other-profiles"]}
    monkeypatch.setattr(environment, "packages_distributions", lambda: claims)
    checks = by_subject(environment.environment_checks())
    assert checks["package plans"] == Check(
        "package plans",
        "warning",
        "in this folder is another plans, which Python and Jupyter started here import instead of this project's",
        f"rename {tmp_path / 'plans'}, or start elsewhere",
    )
    assert checks["package devices"].outcome == "problem"
    assert checks["package devices"].remedy == f"rename {earlier / 'devices'}, or take it off PYTHONPATH"
    assert checks["package profiles"].found == "other-profiles installs a package of this name too"
    assert "package catalog" not in checks


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a port open")
def test_what_simulates_an_instrument_on_a_port_does_not_use_it(silent_port: str):
    assert ports.port_users([silent_port]) == {}
    assert by_subject(ports.port_checks(on_port(silent_port)))[f"port {silent_port}"].outcome == "ok"


def test_a_port_that_somebody_has_open_is_told_with_who(used_port: str):
    users = ports.port_users([used_port])
    assert any(user.startswith("process ") for user in users[os.path.realpath(used_port)])
    check = by_subject(ports.port_checks(on_port(used_port)))[f"port {os.path.realpath(used_port)}"]
    assert check.outcome == "problem"
    assert check.found.startswith("in use by process ")
    assert check.remedy == "a session takes its ports for itself: end that program, or let both use one session"


def test_a_port_that_is_missing_or_closed_is_told(monkeypatch: pytest.MonkeyPatch):
    checks = by_subject(ports.port_checks(on_port("/dev/no-such-port")))
    assert checks["port /dev/no-such-port"].outcome == "problem"
    assert checks["port /dev/no-such-port"].remedy == "plug it in, or correct the configuration"
    monkeypatch.setattr(ports.os, "access", lambda path, mode: False)
    check = by_subject(ports.port_checks(on_port("/dev/null")))["port /dev/null"]
    group = grp.getgrgid(os.stat("/dev/null").st_gid).gr_name
    assert check == Check(
        "port /dev/null",
        "problem",
        "closed to you",
        f"join the group '{group}': sudo usermod -a -G {group} $USER, then log in anew",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such group")
def test_who_is_not_in_the_group_of_ports_is_told_to_join(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ports.os, "getuid", lambda: 1000)
    monkeypatch.setattr(ports.os, "getgid", lambda: 1000)
    monkeypatch.setattr(ports.os, "getgroups", list)
    dialout = grp.struct_group(("dialout", "x", 20, []))
    monkeypatch.setattr(grp, "getgrnam", lambda name: dialout)
    check = by_subject(ports.port_checks(None))["permissions"]
    assert (check.outcome, check.remedy) == ("warning", "sudo usermod -a -G dialout $USER, then log in anew")
    monkeypatch.setattr(ports.os, "getgroups", lambda: [20])
    assert by_subject(ports.port_checks(None))["permissions"].found == "you are in the group dialout"


def test_a_vendors_visa_matters_where_it_is_configured():
    checks = by_subject(ports.visa_checks(None))
    assert checks["VISA @py"].outcome == "ok"
    if checks["VISA @ivi"].outcome == "ok":
        pytest.skip("a vendor's VISA is installed here")
    assert checks["VISA @ivi"] == Check("VISA @ivi", "note", "no VISA library was found for backend '@ivi'", "")
    configured = DualConfig.from_mapping({"application": {"visa_backend": "@ivi"}})
    check = by_subject(ports.visa_checks(configured))["VISA @ivi"]
    assert check.outcome == "problem"
    assert check.remedy.startswith("install NI-VISA ")


def test_runs_that_wait_and_disks_that_are_full_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checks = by_subject(records.record_checks(tmp_path / "new"))
    assert checks["data directory"].found == f"{tmp_path / 'new'}, made by the first session"
    data_dir = tmp_path / "data"
    for folder in ("journal", "sessions", "server"):
        (data_dir / folder).mkdir(parents=True)
    (data_dir / "journal" / "abc.jsonl").write_text("{}\n")
    checks = by_subject(records.record_checks(data_dir))
    assert checks["undelivered runs"] == Check(
        "undelivered runs",
        "warning",
        "1 runs wait in their journals; nothing is lost",
        f"any session or query delivers them: tandem runs --data-dir {data_dir}",
    )
    (data_dir / "journal" / "abc.problem").write_text("no column has this length\n")
    assert by_subject(records.record_checks(data_dir))["run abc"].found.endswith("no column has this length")
    monkeypatch.setattr(records, "NO_SPACE", 2**62)
    assert by_subject(records.record_checks(data_dir))["disk"].remedy == ("runs pause when the disk is full: make room")


def test_running_sessions_are_told():
    facts = {"pid": 1, "name": "doctors-bench", "state": "running", "data_dir": "/data", "began": 0.0}
    control = ControlServer({"session": lambda: facts})
    control.start()
    try:
        check = by_subject(records.session_checks())["session doctors-bench"]
        assert check.found == "process 1, running, runs in /data"
    finally:
        control.close()


def test_the_report_is_for_people_and_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    # What they find is proved above, and looking at all packages takes seconds.
    monkeypatch.setattr(report_module, "environment_checks", lambda: iter(()))
    monkeypatch.setattr(report_module, "visa_checks", lambda config: iter(()))
    path = tmp_path / "bench.toml"
    path.write_text(METER.format(port="/dev/no-such-port") + "wavelenght = 780\n")
    assert run_doctor(str(path), data_dir=tmp_path / "data", json_output=True) == 1
    report = json.loads(capsys.readouterr().out)
    problem = next(check for check in report["checks"] if check["subject"] == f"configuration {path}:5")
    assert (report["ok"], problem["outcome"]) == (False, "problem")
    assert problem["remedy"].endswith("did you mean wavelength or wavelength_limits?")
    path.write_text(METER.format(port="/dev/no-such-port"))
    assert run_doctor(str(path), data_dir=tmp_path / "data", json_output=False) == 1
    lines = capsys.readouterr().out.splitlines()
    index = next(number for number, line in enumerate(lines) if line.startswith("PROBLEM  port /dev/no-such-port "))
    assert lines[index + 1].strip() == "plug it in, or correct the configuration"
    assert lines[-1] == "1 of these keep something from working."


def test_nothing_is_a_problem_here(typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = typed("doctor", "--data-dir", tmp_path)
    assert done.stdout.endswith("Nothing keeps a session from working.\n")
    assert (done.returncode, done.stderr) == (0, "")
