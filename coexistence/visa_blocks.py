"""Binary blocks of IEEE 488.2: ``#`` , the number of digits, the length in bytes, the data.

Source: IEEE 488.2-1992, 8.7.9 (definite length) and 8.7.10 (indefinite length, ``#0`` up to the end of the message).
"""

from __future__ import annotations

from coexistence.errors import CoexistenceError

_LENGTHS = b"123456789"


class BlockError(CoexistenceError, ValueError):
    """A reply is no binary block of IEEE 488.2; ``reply`` has its beginning."""

    def __init__(self, reply: bytes, reason: str) -> None:
        self.reply = reply[:64]
        self.reason = reason
        super().__init__(
            f"no binary block: {reason}. The reply begins {self.reply!r}. "
            "Check that the instrument is set to send binary data."
        )


def block_end(received: bytes, terminator: bytes = b"\n") -> int:
    r"""Tell where a reply with one binary block ends; to be given as ``until`` to an exchange.

    Parameters
    ----------
    received
        What came so far.
    terminator
        Follows the block on media that do not mark the end of a message (sockets, serial lines).

    Returns
    -------
    int
        The index behind the terminator; while incomplete 0, or ``-n`` when at least ``n`` bytes are needed.
        A reply that is no definite-length block ends with its terminator.
    """
    if received[:1] == b"#" and (len(received) < 2 or received[1:2] in _LENGTHS):
        if len(received) < 2:
            return -2
        start = 2 + int(received[1:2])
        if len(received) < start:
            return -start
        if received[2:start].isdigit():
            end = start + int(received[2:start]) + len(terminator)
            return end if len(received) >= end else -end
    index = received.find(terminator)
    return index + len(terminator) if index >= 0 else 0


def block_payload(reply: bytes, terminator: bytes = b"\n") -> bytes:
    """Return the data of the one binary block that a reply consists of.

    Raises
    ------
    BlockError
        The reply is something else, or shorter than it says.
    """
    if reply[:2] == b"#0":
        return reply[2:].removesuffix(terminator)
    if reply[:1] != b"#" or not reply[1:2] or reply[1:2] not in _LENGTHS:
        raise BlockError(reply, "it does not start with '#' and a digit")
    start = 2 + int(reply[1:2])
    if not reply[2:start].isdigit() or len(reply) < start:
        raise BlockError(reply, "its length is not a number")
    size = int(reply[2:start])
    if len(reply) < start + size:
        raise BlockError(reply, f"it announces {size} bytes and has {len(reply) - start}")
    return reply[start : start + size]


def make_block(data: bytes) -> bytes:
    """Return data as a definite-length block."""
    size = str(len(data))
    if len(size) > 9:
        raise BlockError(data, "more than 999999999 bytes do not fit into one block")
    return f"#{len(size)}{size}".encode("ascii") + data
