"""Instruments of both generations: wire protocols, v2 (ophyd) and v4 (ophyd-async)."""
