"""`tandem config schema`: the JSON Schema of configuration files, by which editors complete and check them."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from coexistence.config import DualConfig, InstrumentConfig
from devices import registry
from devices.options import InstrumentOptions
from profiles.configuration import KEYS_OF_MEDIUM
from profiles.docstrings import field_texts

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The draft that editors of TOML understand."""

_FOR_CLASSES = ("args", "kwargs")


def print_schema() -> int:
    """Print the schema; return the exit code."""
    print(json.dumps(schema(), indent=1))
    return 0


def schema() -> dict[str, Any]:
    """Return the schema: in `instruments` each type has its own keys, options and wire."""
    definitions: dict[str, Any] = {}
    properties = {}
    for name, field in DualConfig.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        properties[name] = {"description": _first_line(section), **_of_model(section, definitions)}
    alternatives = [_of_type(registry.instrument_type(name), definitions) for name in registry.type_names()]
    alternatives.append(_of_classes(definitions))
    definitions["InstrumentConfig"] = {"type": "object", "required": ["id", "type"], "oneOf": alternatives}
    return {
        "$schema": DRAFT,
        "title": "Configuration of a bench",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "definitions": definitions,
    }


def _of_type(instrument: registry.InstrumentType, definitions: dict[str, Any]) -> dict[str, Any]:
    common = _of_model(InstrumentConfig, definitions)["properties"]
    wires = KEYS_OF_MEDIUM[instrument.medium]
    unwanted = {*_FOR_CLASSES, *(key for keys in KEYS_OF_MEDIUM.values() for key in keys if key not in wires)}
    options = _of_model(instrument.options, definitions)["properties"]
    properties = {key: value for key, value in common.items() if key not in unwanted} | options
    properties["type"] = {"const": instrument.name, "description": _first_line(instrument.options)}
    described = {"title": instrument.name, "type": "object", "additionalProperties": False, "properties": properties}
    return {**described, "required": ["id", "type"], "oneOf": [{"required": [key]} for key in wires]}


def _of_classes(definitions: dict[str, Any]) -> dict[str, Any]:
    properties = dict(_of_model(InstrumentConfig, definitions)["properties"])
    properties["type"] = {
        "type": "string",
        "pattern": "^[^:]+:[^:]+$",
        "description": "A class from elsewhere: package.module:Class.",
    }
    return {
        "title": "package.module:Class",
        "type": "object",
        "additionalProperties": False,
        "required": ["id", "type"],
        "properties": properties,
    }


def _of_model(model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one model, its nested models put into the definitions."""
    made = model.model_json_schema(ref_template="#/definitions/{model}")
    nested = made.pop("$defs", {})
    for name, definition in nested.items():
        if name not in definitions:
            definitions[name] = _for_toml(definition)
            _describe(definitions[name], _model_named(name, model))
    result: dict[str, Any] = _for_toml(made)
    result.pop("title", None)
    result.pop("description", None)
    _describe(result, model)
    return result


def _model_named(name: str, root: type[BaseModel]) -> type[BaseModel] | None:
    modules = (__import__(each.__module__, fromlist=["_"]) for each in (root, InstrumentOptions))
    return next((getattr(module, name) for module in modules if hasattr(module, name)), None)


def _describe(made: dict[str, Any], model: type[BaseModel] | None) -> None:
    if model is None:
        return
    for name, text in field_texts(model).items():
        if name in made.get("properties", {}):
            made["properties"][name]["description"] = text


def _for_toml(value: Any) -> Any:
    """Return a schema in the words of its draft, without what TOML cannot say: a key is there or not, none is null."""
    if isinstance(value, list):
        return [_for_toml(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {
        key: _for_toml(item)
        for key, item in value.items()
        if not (key == "default" and item is None) and not (key == "title" and isinstance(item, str))
    }
    if "prefixItems" in made:
        made["items"] = made.pop("prefixItems")
    alternatives = made.get("anyOf")
    if alternatives is not None and {"type": "null"} in alternatives:
        kept = [item for item in alternatives if item != {"type": "null"}]
        del made["anyOf"]
        made |= kept[0] if len(kept) == 1 else {"anyOf": kept}
    return made


def _first_line(model: type) -> str:
    return (model.__doc__ or "").partition("\n")[0]
