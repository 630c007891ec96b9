"""Print the lowest versions pyproject.toml declares, one pip requirement a line.

The output is a requirements file: what installs with it and passes the quick tests is what the
declaration promises.
"""

import re
import sys
import tomllib
from pathlib import Path

DECLARED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?P<extras>\[[^\]]*\])?>=(?P<lowest>[0-9][0-9A-Za-z.]*)$")


def lower_bounds(pyproject: Path, extras: list[str]) -> list[str]:
    """Return `name[extras]==lowest` for each declared dependency and for those of the named extras.

    Raises ValueError for a dependency without a plain `>=` bound, because nothing proves such a declaration.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    declared = list(project["dependencies"])
    for extra in extras:
        declared += project["optional-dependencies"][extra]
    bounds = []
    for requirement in declared:
        match = DECLARED.match(requirement)
        if match is None:
            raise ValueError(f"{pyproject}: {requirement!r} declares no plain lower bound (name>=version)")
        bounds.append(f"{match['name']}{match['extras'] or ''}=={match['lowest']}")
    return bounds


if __name__ == "__main__":
    print("\n".join(lower_bounds(Path(__file__).parent.parent / "pyproject.toml", sys.argv[1:])))
