"""Planted faults are found and named through the whole chain; with the default numbers in the soak."""

from planted_faults import check_reported, measured


def test_faults_of_twins_are_found_and_named_by_the_report(tmp_path):
    measured(tmp_path, 130)
    check_reported(tmp_path, "--outlier-rate", "0.1")
