"""The old configurations in `tests/data/old_configurations`, and what is expected of each.

Beside each `<name>.toml` stands `<name>.expected.txt`: what is told, a line of dashes, and the new file.
"""

import re
from pathlib import Path

from coexistence.migration import Conversion, convert_file
from profiles.migration import load_file

FOLDER = Path(__file__).parent.parent / "data" / "old_configurations"
RULE = "-" * 80


def old_files() -> list[Path]:
    return sorted(FOLDER.glob("*.toml"))


def outcome_of(path: Path) -> tuple[str, Conversion]:
    """Convert a file; return what is compared with the expectation, and the conversion."""
    conversion = convert_file(path, load_file)
    told = []
    for one in conversion.instruments:
        told.append(f"{one.old_id} -> {', '.join(one.new_ids) or 'nothing'}: {one.outcome}")
        told += [f"  {remark}" for remark in ([one.reason] if one.reason else one.remarks)]
    told += [f"note: {note}" for note in conversion.notes]
    text = "\n".join([*told, RULE, conversion.text])
    text = re.sub(r"\bon = [^,\n}]+", "on = NOW", text)
    return text.replace(f"{FOLDER}/", ""), conversion
