"""Shadow mode: the other generation of an instrument measures beside it, and both are compared."""

from plans.shadow.comparison import Comparison, Outlier, compare, compare_texts
from plans.shadow.pair_reader import CannotShadow, ShadowPair, row_columns
from plans.shadow.pairs import Pairs, Tolerance
from plans.shadow.shadowing import SHADOW_STREAM, shadowed

__all__ = [
    "SHADOW_STREAM",
    "CannotShadow",
    "Comparison",
    "Outlier",
    "Pairs",
    "ShadowPair",
    "Tolerance",
    "compare",
    "compare_texts",
    "row_columns",
    "shadowed",
]
