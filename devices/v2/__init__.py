"""Legacy generation: blocking drivers wrapped as synchronous ophyd devices."""
