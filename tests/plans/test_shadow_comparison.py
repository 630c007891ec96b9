"""What is said of pairs of readings: planted faults are found and named, sound pairs are left in peace."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans.shadow import Pairs, Tolerance, compare, compare_texts

TOLERANCE = Tolerance(relative=0.01, lag_s=0.02)
ENOUGH = TOLERANCE.pairs_for_outliers


def swinging(time):
    """A truth that changes as fast as the reading of a rotating polarizer does."""
    return 0.5e-3 * (1 + np.sin(np.pi * time)) + 1e-5


def steady(time):
    return np.full_like(time, 1e-3)


def stepping(time):
    return 1e-3 * np.sin(0.11 * time) ** 2 + 2e-6


def falling_and_rising(time):
    """A truth of both signs."""
    return 1e-3 * np.sin(0.11 * time)


NOISES = {
    "normal": lambda random, n: random.normal(size=n),
    "uniform": lambda random, n: random.uniform(-(3**0.5), 3**0.5, n),
    "laplace": lambda random, n: random.laplace(size=n) / 2**0.5,
    "heavy tails": lambda random, n: random.standard_t(3, n),
    "skewed": lambda random, n: random.exponential(size=n) - 1,
}


def rows_of_readings(
    seed,
    n,
    truth,
    *,
    scale=1.0,
    offset=0.0,
    lag_s=0.0,
    outlier_every=None,
    noise=2e-6,
    relative_noise=1e-3,
    kind="normal",
    fault=lambda values: values,
):
    """Readings of a truth in turn, with the noise of both and the faults of the twin."""
    random = np.random.default_rng(seed)
    times = np.cumsum([np.arange(n) * 0.3, *random.uniform(0.018, 0.03, (3, n))], axis=0)

    def noisy(values):
        return values + NOISES[kind](random, n) * (noise + relative_noise * np.abs(values))

    columns = []
    every_other = np.arange(n) % 2 == 1
    times = np.where(every_other, times[[1, 0, 3, 2]], times)  # these begin with the twin
    for index, when in enumerate(times):
        if index % 2 == 0:
            columns += [noisy(truth(when)), when]
        else:
            off = random.random(n) < (0 if outlier_every is None else 1 / outlier_every)
            columns += [fault((scale * noisy(truth(when - lag_s)) + offset) * np.where(off, 1.5, 1.0)), when]
    return np.transpose(columns)


def measured(seed, n, truth, **faults):
    return Pairs.of(rows_of_readings(seed, n, truth, **faults), [str(row + 1) for row in range(n)])


def verdicts(seeds, n, truth, tolerance=TOLERANCE, **faults):
    return [compare("power", measured(seed, n, truth, **faults), tolerance, unit="W") for seed in range(seeds)]


@pytest.mark.parametrize("truth", [steady, stepping, swinging])
def test_a_sound_pair_is_called_different_in_one_of_a_hundred_cases_at_most(truth):
    for n in (20, ENOUGH):
        found = collections.Counter(result.verdict for result in verdicts(100, n, truth))
        assert found["different"] <= 1, found
    assert found["equivalent"] >= 98


@pytest.mark.parametrize("truth", [stepping, np.zeros_like])
@pytest.mark.parametrize("kind", NOISES)
def test_a_sound_pair_is_left_in_peace_whatever_tails_its_noise_has(kind, truth):
    """What the benchmark `shadow_verdicts` measures, with fewer pairs."""
    for n, tolerance in ((25, Tolerance(relative=0)), (250, TOLERANCE)):
        found = collections.Counter(result.verdict for result in verdicts(30, n, truth, tolerance, kind=kind))
        assert found["different"] <= 1, (n, found)


def test_signals_that_are_compared_together_share_the_rate_of_false_positives():
    shares = collections.Counter()
    for seed in range(80):
        pairs = measured(seed, 40, steady)
        for among in (1, 50):
            shares[among] += compare("power", pairs, Tolerance(relative=0), among=among).verdict == "different"
    assert shares[50] <= shares[1] <= 3


@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
@pytest.mark.parametrize(
    ("truth", "fault", "reason"),
    [
        (stepping, lambda values: np.minimum(values, 0.6e-3), "and beside that off by "),
        (stepping, lambda values: np.where(np.arange(len(values)) < 0.75 * len(values), values, 4e-4), ""),
        (stepping, lambda values: np.zeros_like(values), "it does not follow the original: its scale is 0.0"),
        (stepping, lambda values: np.full_like(values, 4e-4), "it does not follow the original: its scale is 0.0"),
        (
            falling_and_rising,
            lambda values: np.zeros_like(values),
            "it does not follow the original: its scale is 0.0",
        ),
        (
            falling_and_rising,
            lambda values: -values,
            "its values are -1 times those of the original",
        ),
    ],
    ids=["clipped", "stuck in the end", "dead", "stuck", "dead around 0", "sign"],
)
def test_what_is_no_straight_line_is_found_as_well(truth, fault, reason, kind):
    for n in (150, ENOUGH):
        for result in verdicts(5, n, truth, fault=fault, kind=kind):
            assert result.verdict == "different", str(result)
            assert reason in str(result)


def test_an_original_that_is_stuck_gets_a_verdict():
    rows = rows_of_readings(1, 200, falling_and_rising, noise=0, relative_noise=0)
    rows[:, [0, 4]] = 4e-4
    result = compare("power", Pairs.of(rows), TOLERANCE)
    assert result.verdict == "different"
    assert "while the original stayed the same" in str(result)


def test_a_part_that_is_off_is_named_by_its_values_or_its_events():
    (clipped,) = verdicts(1, 400, stepping, fault=lambda values: np.minimum(values, 0.8e-3))
    assert str(clipped).startswith("different because it is off by -0.0001")
    assert " W where the original reads 0.0007" in str(clipped)
    assert str(clipped).endswith("to 0.001, which neither scale nor offset explains")
    (stuck,) = verdicts(1, 160, steady, fault=lambda values: np.where(np.arange(160) < 140, values, 0.98e-3))
    assert " W from 141 to 160, which neither scale nor offset explains" in str(stuck)


def test_wild_readings_among_noise_with_heavy_tails_are_no_proof_and_no_equivalence():
    found = collections.Counter(
        result.verdict for result in verdicts(40, 3 * ENOUGH, stepping, kind="heavy tails", outlier_every=200)
    )
    assert found["equivalent"] <= 2
    assert found["different"] >= 10
    (suspicious, *_) = [
        result
        for result in verdicts(10, ENOUGH, stepping, kind="heavy tails", outlier_every=200)
        if result.verdict == "insufficient evidence"
    ]
    assert suspicious.needed == 2 * ENOUGH
    assert "which may be chance" in str(suspicious)


@pytest.mark.parametrize("rounding", [1e-6, 1e-5])
def test_readings_that_are_rounded_are_equivalent_all_the_same(rounding):
    for seed in range(20):
        rows = rows_of_readings(seed, ENOUGH, stepping)
        rows[:, ::2] = np.round(rows[:, ::2] / rounding) * rounding
        assert str(compare("power", Pairs.of(rows), Tolerance(relative=0.02))) == "equivalent"


@pytest.mark.parametrize("begins", [True, False])
def test_a_motion_that_begins_or_ends_between_the_readings_is_no_fault(begins):
    n = 150
    for seed in range(50):
        random = np.random.default_rng(seed)
        kink = 0.02 if begins else random.uniform(0.02, 0.06, n)  # motors begin to move soon after they were told
        level, speed = random.uniform(0, 1e-3, n), random.uniform(-1e-3, 1e-3, n)

        def truth(time, kink=kink, level=level, speed=speed):
            since = time - np.arange(n) * 0.3 - kink
            return level + speed * (np.maximum(since, 0) if begins else np.minimum(since, 0))

        result = compare("power", measured(seed, n, truth), TOLERANCE)
        assert result.verdict != "different", str(result)
        assert abs(result.lag_s or 0) < 4 * (result.lag_error_s or 0) + 0.001


def test_readings_that_never_differ_are_equivalent():
    times = np.arange(ENOUGH) * 0.1
    same = np.full(ENOUGH, 3.0)
    rows = np.transpose([same, times, same, times + 0.02, same, times + 0.04, same, times + 0.06])
    result = compare("position", Pairs.of(rows), TOLERANCE)
    assert (result.verdict, result.bias, result.spread) == ("equivalent", 0.0, 0.0)


def test_a_pair_as_different_as_is_tolerated_is_called_equivalent_in_one_of_a_hundred_cases_at_most():
    at_the_edge = verdicts(200, ENOUGH, steady, scale=1.01)
    assert sum(result.verdict == "equivalent" for result in at_the_edge) <= 5  # 2 expected; 5 has a chance of 2 %


@pytest.mark.parametrize("truth", [stepping, swinging])
def test_a_scale_that_is_wrong_by_two_percent_is_found_and_named(truth):
    for result in verdicts(20, ENOUGH, truth, scale=1.02):
        assert result.verdict == "different"
        assert result.slope == pytest.approx(1.02, abs=0.005)
        assert str(result).startswith("different because its scale is 1.0")


def test_a_wrong_scale_is_an_offset_while_the_truth_does_not_change():
    for result in verdicts(10, 200, steady, scale=1.02):
        assert str(result).startswith("different because it is offset by +")
        assert str(result).endswith(" W")
        assert result.bias == pytest.approx(2e-5, rel=0.1)
        assert result.slope is None


def test_a_lag_of_fifty_milliseconds_is_found_and_named():
    for result in verdicts(20, 200, swinging, lag_s=0.05):
        assert result.verdict == "different"
        assert result.lag_s == pytest.approx(0.05, abs=0.003)
        assert "ms behind the original" in str(result)


def test_no_lag_is_told_where_nothing_moved():
    result = compare("power", measured(1, 200, steady, lag_s=0.05), TOLERANCE)
    assert result.lag_s is None
    assert result.verdict != "different"


def test_one_outlier_in_two_hundred_is_found_with_its_event_once_there_is_the_evidence_asked_for():
    few = compare("power", measured(3, 60, stepping, outlier_every=1e9), TOLERANCE)
    assert str(few) == (f"insufficient evidence (60 of {ENOUGH}): a wrong reading in 200 could still have been missed")
    found = verdicts(100, few.needed, swinging, outlier_every=200)
    assert (
        sum(result.verdict == "different" for result in found) >= 97
    )  # 99 % of the cases have an outlier that no change of the truth explains
    for result in found:
        for outlier in result.outliers:
            # One of the two readings of a row, seldom both; or the first or last of one, when the truth did not move.
            assert 1.05 < outlier.twin / outlier.original < 1.6
            assert outlier.event.isdigit()
    assert f"{len(found[0].outliers)} of {ENOUGH} readings are far off" in str(found[0])


def test_values_in_another_unit_are_named_at_once():
    result = compare("power", measured(1, 15, stepping, scale=1e3), TOLERANCE, unit="W")
    assert str(result) == "different because its values are 1000 times those of the original, as in another unit"


def test_another_unit_in_the_data_keys_is_a_difference_by_itself():
    result = compare("power", measured(1, 50, steady), TOLERANCE, unit="W", twin_unit="mW")
    assert result.reasons[0] == "the unit is mW, that of the original W"
    assert compare("power", measured(1, 5, steady), TOLERANCE, unit="W", twin_unit="").verdict == "different"


def test_an_offset_is_named_with_its_size_and_unit():
    for result in verdicts(10, 100, stepping, offset=4e-5):
        assert str(result).startswith("different because it is offset by +")
        assert result.bias == pytest.approx(4e-5, rel=0.05)


def test_what_was_not_read_is_left_out():
    rows = rows_of_readings(1, 100, steady)
    rows[:10, 2] = np.nan
    pairs = Pairs.of(rows, [str(row) for row in range(100)])
    assert len(pairs) == 90
    assert pairs.events[0] == "10"
    result = compare("power", pairs, TOLERANCE)
    assert (result.n, result.discarded, result.twin_missing) == (90, 10, 10)
    assert str(result) == "different because it has no number in 10 of 100 rows where the original has one"


def test_readings_that_both_generations_lack_are_no_difference():
    rows = rows_of_readings(1, 3 * ENOUGH, steady)
    rows[::9, 0] = np.nan
    rows[1::8, 2] = np.inf
    rows[5::50] = np.nan
    result = compare("power", Pairs.of(rows), TOLERANCE)
    assert min(result.original_missing, result.twin_missing) > 200
    assert str(result) == "equivalent"


def test_a_twin_that_never_gives_a_number_is_different():
    rows = rows_of_readings(1, 20, steady)
    rows[:, 2] = np.nan
    result = compare("power", Pairs.of(rows), TOLERANCE)
    assert str(result) == "different because it has no number in 20 of 20 rows where the original has one"


def test_a_word_that_only_the_twin_lacks_is_a_difference():
    said = ["AUTO"] * 30
    result = compare_texts("range", said, ["AUTO"] * 29 + [""], said)
    assert str(result) == "different because it has no value in 1 of 30 rows where the original has one"


def test_a_value_that_is_always_0_says_nothing_of_its_scale():
    times = np.arange(ENOUGH) * 0.1
    rows = np.zeros((ENOUGH, 8))
    rows[:, 1::2] = times[:, None] + np.arange(4) * 0.02
    result = compare("position", Pairs.of(rows), TOLERANCE)
    assert str(result) == (
        f"insufficient evidence ({ENOUGH} of {2 * ENOUGH}): it was 0 all the time, which says nothing of its scale"
    )
    rows[5, 2] = 0.01  # the last digit of a dark meter
    rows[9, 0] = 0.01
    result = compare("power", Pairs.of(rows), TOLERANCE)
    assert result.verdict == "insufficient evidence"
    assert "its values are hardly more than noise: state what is tolerated in their unit" in str(result)
    assert str(compare("power", Pairs.of(rows), Tolerance(absolute=0.1))) == "equivalent"


def test_a_wild_reading_now_and_then_is_no_fault_when_the_original_has_them_too():
    n = 2 * ENOUGH
    for seed in range(10):
        random = np.random.default_rng(seed)
        rows = rows_of_readings(seed, n, stepping)
        glitches = random.random((n, 4)) < 0.005  # of the instrument itself, whoever reads it
        rows[:, ::2] += glitches * 1e-3
        result = compare("power", Pairs.of(rows), TOLERANCE)
        assert result.verdict == "equivalent", str(result)
        assert any(outlier.of_original for outlier in result.outliers)


def test_a_twin_with_more_wild_readings_than_the_original_is_different():
    rows = rows_of_readings(4, ENOUGH, stepping)
    rows[10, 4] *= 2
    rows[20:400:20, 2] *= 2
    result = compare("power", Pairs.of(rows), TOLERANCE)
    assert result.verdict == "different"
    assert f"of {ENOUGH} readings are far off (of the original 1)" in str(result)


def test_settings_in_even_steps_are_not_taken_for_rounding():
    setting = 700.0 + 10 * (np.arange(ENOUGH) % 21)
    times = np.arange(ENOUGH) * 1.0
    stale = setting.copy()
    stale[[50, 300, 301, 600, 800]] -= 10
    rows = np.transpose([setting, times, stale, times + 0.02, setting, times + 0.04, stale, times + 0.06])
    result = compare("wavelength", Pairs.of(rows), Tolerance(relative=0.001))
    assert f"5 of {ENOUGH} readings are far off" in str(result)


def test_values_that_are_within_an_absolute_tolerance_are_in_no_other_unit():
    rows = rows_of_readings(1, ENOUGH, lambda time: np.full_like(time, 1e-6), scale=10)
    assert str(compare("power", Pairs.of(rows), Tolerance(absolute=1e-3))) == "equivalent"


def test_too_few_readings_say_nothing():
    result = compare("power", measured(1, 5, steady), TOLERANCE)
    assert (result.verdict, result.bias, result.needed) == ("insufficient evidence", None, ENOUGH)
    assert str(result) == f"insufficient evidence (5 of {ENOUGH}): too few readings to know their spread"


def test_more_readings_are_asked_for_when_the_noise_is_large():
    noisy = compare("power", measured(1, 50, steady, noise=1e-4), Tolerance(relative=0.003, outlier_rate=0.1))
    assert noisy.verdict == "insufficient evidence"
    assert noisy.needed > 500
    again = compare("power", measured(2, 2 * noisy.needed, steady, noise=1e-4), noisy.tolerance)
    assert again.verdict == "equivalent"


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 8),
        max_size=40,
    )
)
def test_any_readings_get_a_verdict(rows):
    result = compare("anything", Pairs.of(rows), TOLERANCE)
    assert result.verdict in ("equivalent", "different", "insufficient evidence")
    assert str(result)
    assert result.as_json()["n"] <= len(rows)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"relative": -0.1}, "the relative tolerance must be a number of 0 or more, not -0.1"),
        ({"absolute": float("nan")}, "the absolute tolerance must be a number of 0 or more, not nan"),
        ({"lag_s": 0}, "the tolerated lag must be a time above 0 s, not 0"),
        ({"outlier_rate": 1}, "the outlier rate must be between 0 and 0.5, not 1"),
    ],
)
def test_a_tolerance_that_makes_no_sense_is_refused(settings_, message):
    with pytest.raises(ValueError) as refusal:
        Tolerance(**settings_)
    assert str(refusal.value) == message
