"""Moving instruments from v2 to v4: converting configurations, cutover and rollback, and the evidence for them."""

from coexistence.migration.convert import convert_file
from coexistence.migration.evidence import Evidence, SignalEvidence, evidence, write_evidence
from coexistence.migration.report import Conversion, ConversionRefused, Converted

__all__ = [
    "Conversion",
    "ConversionRefused",
    "Converted",
    "Evidence",
    "SignalEvidence",
    "convert_file",
    "evidence",
    "write_evidence",
]
