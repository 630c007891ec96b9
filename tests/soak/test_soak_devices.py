"""Both generations of all instruments through hours of faults; `make soak` runs it, SOAK_SECONDS says how long."""

import os

import pytest
from storm import storm

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

SECONDS = float(os.environ.get("SOAK_SECONDS", "300"))


def test_all_instruments_through_faults(tmp_path):
    found = storm(tmp_path, SECONDS, seed=int(SECONDS))
    print(found)
    assert found["wrong"] == []
    assert found["all_work"]
    assert found["plans that succeeded"] > SECONDS / 20
    assert found["threads"] == []
    assert found["descriptors"] <= 0
    assert found["memory_bytes"] < 5_000_000 + 20_000 * SECONDS
