"""Byte-level simulated instruments on ptys and TCP sockets, looking at one optical bench."""
