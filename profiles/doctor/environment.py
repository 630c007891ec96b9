"""Python, the system, the packages and their versions, and who else claims the names of ours."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from profiles.doctor.findings import Check

DISTRIBUTION = "ophyd-tandem"
OWN_PACKAGES = ("catalog", "coexistence", "devices", "plans", "profiles", "simulators")


def environment_checks() -> Iterator[Check]:
    """Yield what there is to say of the interpreter and the packages."""
    yield _python()
    yield _system()
    yield from _versions()
    yield from _shadows()


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _system() -> Check:
    found = f"{platform.system()} {platform.release()} on {platform.machine()}, {os.cpu_count()} processors"
    if sys.platform == "win32":
        return Check(
            "system", "warning", found, "pseudo-terminals, exclusive ports and the catalog need Linux or macOS"
        )
    return Check("system", "ok", found)


def _versions() -> Iterator[Check]:
    try:
        yield Check(DISTRIBUTION, "ok", version(DISTRIBUTION))
        wanted = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        yield Check(DISTRIBUTION, "problem", "it is not installed", "install it: pip install -e . in its folder")
        return
    needed = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    good = 0
    for requirement in needed:
        try:
            present = version(requirement.name)
        except PackageNotFoundError:
            yield Check(
                requirement.name, "problem", f"missing; needed is {requirement}", f"pip install '{requirement}'"
            )
            continue
        if not requirement.specifier.contains(present, prereleases=True):
            yield Check(
                requirement.name,
                "problem",
                f"{present}; needed is {requirement.specifier}",
                f"pip install -U '{requirement}'",
            )
        else:
            good += 1
    yield Check("packages", "ok", f"{good} of {len(needed)} that are needed are here, and new enough")


def _shadows() -> Iterator[Check]:
    own = Path(__file__).resolve().parents[2]
    claims = packages_distributions()
    troubled = False
    for name in OWN_PACKAGES:
        if others := sorted(set(claims.get(name, ())) - {DISTRIBUTION}):
            troubled = True
            yield Check(
                f"package {name}",
                "problem",
                f"{', '.join(others)} installs a package of this name too",
                f"uninstall it, or use an environment of its own: pip uninstall {' '.join(others)}",
            )
        for folder, is_current in _folders_searched():
            if folder == own or not _has_package(name, folder):
                continue
            troubled = True
            where = "in this folder" if is_current else f"in {folder}"
            yield Check(
                f"package {name}",
                "warning" if is_current else "problem",
                f"{where} is another {name}, which Python and Jupyter started here import instead of this project's",
                f"rename {folder / name}, or start elsewhere"
                if is_current
                else f"rename {folder / name}, or take it off PYTHONPATH",
            )
    if not troubled:
        yield Check("own packages", "ok", f"{', '.join(OWN_PACKAGES)} are those in {own}")


def _folders_searched() -> Iterator[tuple[Path, bool]]:
    """Yield the folders before ours on the path, and the current one, which scripts and prompts begin with."""
    current = Path.cwd().resolve()
    yield current, True
    own = Path(__file__).resolve().parents[2]
    for entry in sys.path:
        folder = Path(entry or ".").resolve()
        if folder == own:
            return
        if folder != current:
            yield folder, False


def _has_package(name: str, folder: Path) -> bool:
    found = PathFinder.find_spec(name, [str(folder)])
    # A folder without __init__.py gives way to any package that has one.
    return found is not None and found.origin is not None
