"""What importing the plans costs: a prompt that lists them must not wait for fits or for drivers."""

import subprocess
import sys

HEAVY = ("scipy", "lmfit", "matplotlib", "pandas", "ophyd", "ophyd_async", "tiled")


def test_plans_are_imported_without_what_only_some_of_them_need():
    code = (
        "import sys, plans, plans.queue_server\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
        "assert plans.fly_scan and plans.shadowed and plans.calibrate_half_wave_plate\n"
        "missing = [name for name in plans.__all__ if not hasattr(plans, name)]\n"
        "assert not missing, missing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
