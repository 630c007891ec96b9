"""Which user is at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct
import sys

_MACOS_SOL_LOCAL = 0
_MACOS_LOCAL_PEERCRED = 1


def peer_user(connection: socket.socket) -> int | None:
    """Return the numeric user id of the peer; None where the system does not tell."""
    if hasattr(socket, "SO_PEERCRED"):
        credentials = struct.Struct("3i")
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        _, user, _ = credentials.unpack(found)
        return int(user)
    if sys.platform == "darwin":
        # struct xucred begins with its version and the effective user id.
        begin = struct.Struct("II")
        found = connection.getsockopt(_MACOS_SOL_LOCAL, _MACOS_LOCAL_PEERCRED, 76)
        _, user = begin.unpack_from(found)
        return int(user)
    return None
