"""Faults planted in the twins of a configuration, measured in a session, found by `tandem shadow report`."""

import json
from pathlib import Path

import bluesky.plans as bp
import pytest
from typer.testing import CliRunner

from coexistence.config import DualConfig
from profiles.cli import app
from profiles.session import Session

FAULTS = {
    "sound": "none",
    "scaled": "scale",
    "late": "lag",
    "loose": "outliers",
    "mislabelled": "unit",
}
DURATION_S = {"late": 0.005}
"""A lag can be told only where the truth changes between the readings of a row."""


def measured(data_dir: Path, points: int) -> None:
    """Measure all originals in one run of a session whose configuration gives each a twin."""
    config = DualConfig.from_mapping(
        {
            "application": {"shadow_budget": 1.0, "baseline": False},
            "v2": {
                "instruments": [
                    {"id": name, "type": "faulty_meters:Meter", "kwargs": {"duration_s": DURATION_S.get(name, 0.0)}}
                    for name in FAULTS
                ]
            },
            "v4": {
                "instruments": [
                    {
                        "id": f"{name}_v4",
                        "shadow_of": name,
                        "type": "faulty_meters:Twin",
                        "kwargs": {"fault": fault, "duration_s": DURATION_S.get(name, 0.0)},
                    }
                    for name, fault in FAULTS.items()
                ]
            },
        }
    )
    with Session.open(config, data_dir=data_dir, strict=True, display=False) as session:
        session.RE(bp.count([session.devices[name] for name in FAULTS], points, delay=0.02))


def check_reported(data_dir: Path, *options: str) -> None:
    """Ask the command, and compare what it says of each pair with what was planted."""
    result = CliRunner().invoke(app, ["shadow", "report", "--data-dir", str(data_dir), "--json", *options])
    assert result.exit_code == 1, result.output
    found = {each["instrument"]: each["signals"][0] for each in json.loads(result.stdout)}
    assert {name: signal["verdict"] for name, signal in found.items()} == {
        name: "equivalent" if fault == "none" else "different" for name, fault in FAULTS.items()
    }, found
    reasons = {name: signal["reasons"] for name, signal in found.items()}
    assert len(reasons["scaled"]) == len(reasons["late"]) == len(reasons["loose"]) == len(reasons["mislabelled"]) == 1
    assert reasons["scaled"][0].startswith("its scale is 1.0")
    assert found["scaled"]["slope"] == pytest.approx(1.02, abs=0.005)
    assert reasons["late"][0].endswith("ms behind the original")
    assert found["late"]["lag_s"] == pytest.approx(0.05, abs=0.01)
    assert reasons["loose"][0].endswith("readings are far off")
    assert all(outlier["twin"] < 0.8 * outlier["original"] for outlier in found["loose"]["outliers"])
    assert reasons["mislabelled"] == ["the unit is mW, that of the original W"]
