"""Planted faults in twins, with the number of readings that the default of the report asks for."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "profiles"))

from planted_faults import check_reported, measured

ENOUGH_FOR_ONE_IN_200 = 919


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_faults_are_found_with_the_readings_the_report_asks_for_by_default(tmp_path):
    measured(tmp_path, ENOUGH_FOR_ONE_IN_200 + 20)
    check_reported(tmp_path)
