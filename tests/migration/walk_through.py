"""Runs a page as a reader would: saves its files, types its commands, runs its Python, and compares what comes out.

In a page, a `toml` block with `title="name"` is a file to save, lines of a `console` block that begin with `$ ` are
typed, the lines below are what is printed, and a `python` block is run; a `text` block right after it is what it
prints. A line of dots stands for any number of lines.
"""

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from profiles.cli import main

_BLOCK = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|'[0-9a-f]{8}'|[-+]?\d[\d.:TZ]*(e[-+]?\d+)?")


@dataclass(frozen=True)
class Step:
    """One thing the reader does, and what is shown for it."""

    kind: str  # "save", "type" or "python"
    text: str
    name: str = ""
    shown: tuple[str, ...] = ()


def steps_of(page: str) -> Iterator[Step]:
    blocks = [(match["info"].strip(), match["body"]) for match in _BLOCK.finditer(page)]
    for (info, body), following in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if title := re.search(r'title="([^"]+)"', info):
            yield Step("save", body, title[1])
        elif info == "console":
            for command, *shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
                yield Step("type", command, shown=tuple(shown[0].splitlines()))
        elif info == "python":
            shown_text = following[1] if following[0] == "text" else ""
            yield Step("python", body, shown=tuple(shown_text.splitlines()))


def do(step: Step) -> list[str]:
    """Do a step in the current folder; return the lines that came out."""
    if step.kind == "save":
        Path(step.name).write_text(step.text)
        return []
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        if step.kind == "python":
            exec(compile(step.text, "page", "exec"), {"__name__": "page"})
            code: object = 0
        else:
            code = _type(step.text)
    assert not code, f"{step.text} ended with {code}\n{output.getvalue()}"
    return output.getvalue().splitlines()


def _type(command: str) -> object:
    """Type a command of the page; return its exit code."""
    program, *arguments = shlex.split(command)
    if program == "cat":
        print(Path(arguments[0]).read_text(), end="")
        return 0
    assert program == "tandem", command
    with mock.patch.object(sys, "argv", [program, *arguments]):
        try:
            main()
        except SystemExit as end:
            return end.code
        return 0


def missing_lines(step: Step, came: list[str]) -> list[str]:
    """Return the shown lines that did not come, in their order; numbers and uids may differ."""
    left = [_normal(line) for line in came]
    missing = []
    for line in step.shown:
        wanted = _normal(line)
        # Tables are as wide as their numbers are long.
        if not wanted or set(wanted) <= {".", " "} or wanted[0] in "┏┃┡│└":
            continue
        if wanted in left:
            del left[: left.index(wanted) + 1]
        else:
            missing.append(line)
    return missing


def _normal(line: str) -> str:
    return " ".join(_VARIABLE.sub("#", line.replace(str(Path.cwd()), "FOLDER")).split())
