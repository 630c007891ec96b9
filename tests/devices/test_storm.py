"""Both generations of all instruments through lost replies, pulled cables and stops; `make soak` has the long one."""

import pytest
from storm import storm


@pytest.mark.parametrize("seed", [1])
def test_nothing_is_crossed_or_left_behind(tmp_path, seed):
    found = storm(tmp_path, 4.0, seed=seed, time_scale=0.05)
    assert found["wrong"] == []
    assert found["all_work"]
    assert found["values"] > 0
    assert found["threads"] == []
    assert found["descriptors"] <= 0
