"""What a prompt or a script of a session has as names: itself, its parts, plans, and each device by its id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiles.session import Session

PLAN_MODULES = {"bp": "bluesky.plans", "bps": "bluesky.plan_stubs", "bpp": "bluesky.preprocessors"}
PARTS = ("session", "RE", "devices", "sd", "bec", "catalog")


def prompt_names(session: Session) -> dict[str, Any]:
    """Return the names; a device has its name even where a plan is called the same, a part of the session before it.

    Devices that connect later are not in it, see :meth:`profiles.session.Session.add_device_listener`.
    """
    parts = {
        "session": session,
        "RE": session.RE,
        "devices": session.devices,
        "sd": session.sd,
        "bec": session.bec,
        "catalog": LazyCatalog(lambda: session.catalog),
    }
    modules = {name: import_module(module) for name, module in PLAN_MODULES.items()}
    plans = import_module("plans")
    return {**modules, **{name: getattr(plans, name) for name in plans.__all__}, **session.devices, **parts}


def plan_names() -> list[str]:
    """Return the names of the project's plans."""
    from plans import CATALOGUE

    return sorted(CATALOGUE)


class LazyCatalog:
    """Stands for the catalog and opens it when it is used: the server need not be up when the prompt is.

    Parameters
    ----------
    open_catalog
        Returns the catalog, up to date with the last run.
    """

    def __init__(self, open_catalog: Callable[[], Any]) -> None:
        self._open_catalog = open_catalog

    def __getattr__(self, name: str) -> Any:
        # IPython asks every object for display methods and underscored names: that is no use of the catalog.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._open_catalog(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._open_catalog()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._open_catalog())

    def __len__(self) -> int:
        return len(self._open_catalog())

    def __repr__(self) -> str:
        return repr(self._open_catalog())
