"""Numbers as instruments write them: strict, so that noise never becomes a measurement."""

from __future__ import annotations

import math
import re

_DECIMAL = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_INTEGER = re.compile(rb"[+-]?[0-9]{1,18}")
_HEX = re.compile(rb"[0-9A-F]+")


def decimal(text: bytes) -> float:
    """Convert a decimal number, with or without exponent, blanks around it allowed.

    Raises
    ------
    ValueError
        For anything else, ``nan`` and ``inf`` and numbers too large for a float included.
    """
    stripped = text.strip(b" \t\r\n")
    if not _DECIMAL.fullmatch(stripped):
        raise ValueError(f"{text!r} is not a decimal number")
    value = float(stripped)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is too large")
    return value


def integer(text: bytes) -> int:
    """Convert a whole number of at most 18 digits, blanks around it allowed; ValueError for anything else."""
    stripped = text.strip(b" \t\r\n")
    if not _INTEGER.fullmatch(stripped):
        raise ValueError(f"{text!r} is not a whole number")
    return int(stripped)


def unsigned_hex(text: bytes, digits: int) -> int:
    """Convert exactly so many upper-case hexadecimal digits; ValueError for anything else."""
    if len(text) != digits or not _HEX.fullmatch(text):
        raise ValueError(f"{text!r} is not {digits} hexadecimal digits")
    return int(text, 16)


def signed_hex(text: bytes, digits: int) -> int:
    """Convert exactly so many upper-case hexadecimal digits as two's complement; ValueError for anything else."""
    value = unsigned_hex(text, digits)
    return value - (1 << 4 * digits) if value >> (4 * digits - 1) else value


def to_signed_hex(value: int, digits: int) -> bytes:
    """Write a whole number as two's complement in so many upper-case hexadecimal digits.

    Raises
    ------
    OverflowError
        When it does not fit.
    """
    half = 1 << (4 * digits - 1)
    if not -half <= value < half:
        raise OverflowError(f"{value} does not fit into {digits} hexadecimal digits")
    return b"%0*X" % (digits, value & ((half << 1) - 1))
