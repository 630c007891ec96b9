"""Shadow mode: the other generation of an instrument measures beside it, and both are compared."""

from plans.shadow.comparison import Comparison, Outlier, Pairs, Tolerance, compare
from plans.shadow.shadowing import SHADOW_STREAM, CannotShadow, ShadowPair, matching_columns, shadowed

__all__ = [
    "SHADOW_STREAM",
    "CannotShadow",
    "Comparison",
    "Outlier",
    "Pairs",
    "ShadowPair",
    "Tolerance",
    "compare",
    "matching_columns",
    "shadowed",
]
