"""`tandem doctor`: what of this computer keeps a bench from working, and what to do about it."""

from profiles.doctor.findings import Check, Outcome
from profiles.doctor.report import run_doctor

__all__ = ["Check", "Outcome", "run_doctor"]
