"""What the fields of a model mean, as the texts below them in its source say."""

from __future__ import annotations

import ast
import inspect
import textwrap

from pydantic import BaseModel


def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """Return by name the text that follows each field of a model, those it inherits included.

    It is read from the source when it is asked for: pydantic can do so for every model, which would cost each
    start of a session time that only few uses need.
    """
    texts: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, BaseModel) and each is not BaseModel:
            texts |= _own_texts(each)
    return texts


def _own_texts(model: type[BaseModel]) -> dict[str, str]:
    (class_,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(class_, ast.ClassDef)
    found = {}
    for statement, following in zip(class_.body, class_.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text).replace("``", "`").replace("\n", " ")
    return found
