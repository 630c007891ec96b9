"""The soak uses the proofs of the suite, at full length."""

import sys
from pathlib import Path

for folder in ("coexistence", "catalog", "devices", "plans/scans"):
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))
