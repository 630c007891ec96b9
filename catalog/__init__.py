"""Capture of document streams, the catalog daemon, queries and export.

Nothing heavy is imported before it is used: recording needs numpy only, tiled comes with the first query.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checksums import FileProblem, verify_files
    from .client import open_catalog, shut_down, wait_delivered, wait_settled, web_address
    from .errors import (
        BadSearch,
        CatalogError,
        CatalogRefuses,
        CatalogStartFailed,
        CatalogTimeout,
        CatalogUnavailable,
        DataDirectoryError,
        DeliveryFailed,
        DiskFull,
        ExportError,
        JournalCorrupt,
        JournalError,
        JournalWriteError,
        KeyRejected,
        NoCatalog,
        UnknownPart,
        UnknownRun,
        UnrecordableValue,
        UnsupportedPlatform,
    )
    from .export import export_run
    from .external import ExternalServer
    from .journal import Journal, find_journal, original_documents, read_journal
    from .launch import SessionLease, ensure_daemon
    from .moments import UnknownMoment
    from .notes import annotate, annotations_of
    from .query import search_runs
    from .session import CatalogSession

_HOMES = {
    "BadSearch": "errors",
    "CatalogError": "errors",
    "CatalogRefuses": "errors",
    "CatalogSession": "session",
    "CatalogStartFailed": "errors",
    "CatalogTimeout": "errors",
    "CatalogUnavailable": "errors",
    "DataDirectoryError": "errors",
    "DeliveryFailed": "errors",
    "DiskFull": "errors",
    "ExportError": "errors",
    "ExternalServer": "external",
    "FileProblem": "checksums",
    "Journal": "journal",
    "JournalCorrupt": "errors",
    "JournalError": "errors",
    "JournalWriteError": "errors",
    "KeyRejected": "errors",
    "NoCatalog": "errors",
    "SessionLease": "launch",
    "UnknownMoment": "moments",
    "UnknownPart": "errors",
    "UnknownRun": "errors",
    "UnrecordableValue": "errors",
    "UnsupportedPlatform": "errors",
    "annotate": "notes",
    "annotations_of": "notes",
    "ensure_daemon": "launch",
    "export_run": "export",
    "find_journal": "journal",
    "open_catalog": "client",
    "original_documents": "journal",
    "read_journal": "journal",
    "search_runs": "query",
    "shut_down": "client",
    "verify_files": "checksums",
    "wait_delivered": "client",
    "wait_settled": "client",
    "web_address": "client",
}

__all__ = [
    "BadSearch",
    "CatalogError",
    "CatalogRefuses",
    "CatalogSession",
    "CatalogStartFailed",
    "CatalogTimeout",
    "CatalogUnavailable",
    "DataDirectoryError",
    "DeliveryFailed",
    "DiskFull",
    "ExportError",
    "ExternalServer",
    "FileProblem",
    "Journal",
    "JournalCorrupt",
    "JournalError",
    "JournalWriteError",
    "KeyRejected",
    "NoCatalog",
    "SessionLease",
    "UnknownMoment",
    "UnknownPart",
    "UnknownRun",
    "UnrecordableValue",
    "UnsupportedPlatform",
    "annotate",
    "annotations_of",
    "ensure_daemon",
    "export_run",
    "find_journal",
    "open_catalog",
    "original_documents",
    "read_journal",
    "search_runs",
    "shut_down",
    "verify_files",
    "wait_delivered",
    "wait_settled",
    "web_address",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
