"""What `--help` says, in paragraphs that fit any terminal."""

from __future__ import annotations

import inspect

import typer


def paragraphs(text: str) -> str:
    """Return the text of a docstring with each paragraph in one line, which typer breaks where the terminal ends."""
    return "\n\n".join(" ".join(each.split()) for each in inspect.cleandoc(text).split("\n\n")).strip()


def let_paragraphs_flow(app: typer.Typer) -> None:
    """Have the docstrings of all commands broken where the terminal ends, and not where the source does."""
    for command in app.registered_commands:
        command.help = paragraphs(command.help or inspect.getdoc(command.callback) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            let_paragraphs_flow(group.typer_instance)
