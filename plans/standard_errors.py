"""Standard errors that hold also where there were few readings: Student's t in place of the normal distribution."""

from __future__ import annotations

import math

WITHIN_ONE = 0.6826894921370859
"""How often what is sought lies within one standard error of a normal distribution."""


def student_factor(degrees_of_freedom: int) -> float:
    """Return by how much an error estimated from the scatter of readings is enlarged to be a standard error.

    What is sought then lies within the error in 68.3 of 100 cases whatever the number of readings; without, in 50 of
    100 for one degree of freedom.

    Parameters
    ----------
    degrees_of_freedom
        How many more readings there are than parameters. None leaves the error unknown: NaN.
    """
    if degrees_of_freedom < 1:
        return math.nan
    from scipy.special import stdtrit  # takes a quarter of a second to import, and only analyses need it

    return float(stdtrit(degrees_of_freedom, (1 + WITHIN_ONE) / 2))


def share_within(errors: float, degrees_of_freedom: int) -> float:
    """Return how often what is sought lies within that many of the errors stated; NaN without degrees of freedom."""
    if degrees_of_freedom < 1:
        return math.nan
    from scipy.special import stdtr

    return float(2 * stdtr(degrees_of_freedom, errors * student_factor(degrees_of_freedom)) - 1)
