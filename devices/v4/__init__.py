"""New generation: ophyd-async devices."""
