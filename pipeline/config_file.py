"""A configuration from a YAML file, which holds what differs from the defaults, and ``key.sub=value`` overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from anysr import list_models
from anysr.zoo import named_values
from pipeline.config import TrainingConfig
from pipeline.config_errors import explain, refuse_booleans
from pipeline.errors import UserError, one_line
from pipeline.network_kinds import network_classes, with_kinds
from pipeline.storage.places import Place
from pipeline.storage.transfer import read_text

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def load_config(path: Place | None, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a YAML file (None is all defaults), apply ``key.sub=value`` overrides and validate.

    Raises:
        UserError: no such file, not YAML, an unknown key (the nearest valid one is named), a bad value.
    """
    values = {} if path is None else read_yaml(path)
    for override in overrides:
        apply_override(values, override)
    return parse_config(with_named_model(values))


def parse_config(values: Mapping[str, Any]) -> TrainingConfig:
    """Validate plain values; see :func:`load_config`."""
    classes = network_classes(values)
    refuse_booleans(values, _schema)
    try:
        return TrainingConfig.model_validate(with_kinds(values))
    except ValidationError as error:
        raise UserError(explain(error, classes, _schema)) from None


def json_schema() -> dict[str, Any]:
    """The configuration's JSON schema, for editors and other tools."""
    schema = TypeAdapter(TrainingConfig).json_schema()
    name = {"enum": list_models(), "description": "A named network; what stands beside it is changed in it."}
    schema["$defs"]["ModelConfig"]["properties"]["name"] = name
    schema["properties"]["model"] = {"anyOf": [name, {"$ref": "#/$defs/ModelConfig"}]}
    for definition in schema["$defs"].values():
        _describe_keys(definition)
    return schema


_schema = cache(json_schema)


def _describe_keys(definition: dict[str, Any]) -> None:
    """Give the keys what the description of their section, a class's docstring, says of the class's attributes."""
    section, _, attributes = definition["description"].partition("Attributes:\n")
    definition["description"] = section.strip()
    described = {"kind": "Which encoder or decoder this is."} | dict(_ATTRIBUTE.findall(attributes))
    for key in described.keys() & definition["properties"].keys():
        definition["properties"][key]["description"] = " ".join(described[key].split())


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested mappings, as ``key: old -> new``."""
    changes: list[str] = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            changes.append(f"{prefix}{key}: {old} -> {new}")
    return changes


def with_named_model(values: dict[str, Any]) -> dict[str, Any]:
    """``model: NAME`` or ``model: {name: NAME, …}`` written out."""
    model = values.get("model")
    changes = {"name": model} if isinstance(model, str) else dict(model) if isinstance(model, Mapping) else {}
    name = changes.pop("name", None)
    if name is None:
        return values
    if not isinstance(name, str):
        raise UserError(f"model.name must be the name of one network, which is no choice of a search, got {name!r}")
    try:
        return {**values, "model": named_values(name, changes)}
    except ValueError as error:
        raise UserError(str(error)) from None


def read_yaml(path: Place) -> dict[str, Any]:
    """The sections of a YAML file, here or on S3; those left empty are left out."""
    try:
        text = path.read_text() if isinstance(path, Path) else read_text(path)
        if text is None:
            raise UserError(f"cannot read the configuration {path}: no such file")
        values = yaml.load(text, _UniqueKeys)
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from error
    if not isinstance(values, dict | None):
        raise UserError(f"{path} must hold sections such as train: and data:, not a {type(values).__name__}")
    return {key: section for key, section in (values or {}).items() if section is not None}


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML readers keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set what ``key.sub=value`` says in nested values."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"an override is written key.sub=value, got {override!r}")
    *parents, last = path.split(".")
    node: Any = values
    if isinstance(values.get("model"), str):
        values["model"] = {"name": values["model"]}
    try:
        for depth, (part, below) in enumerate(zip(parents, path.split(".")[1:], strict=True), start=1):
            if below.isdigit() and isinstance(node, dict) and part not in node:
                raise ValueError(
                    f"{part} is not written out in the file, so it has no item {below}; give all of {part}"
                )
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
            _check_holds(node, ".".join(parents[:depth]), below)
        # A name may look like a number: to YAML, 1.10 is 1.1.
        is_name = path == "run.name" and text not in ("", "~", "null") and text[0] not in "'\""
        value = text if is_name else yaml.safe_load(text)
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot apply the override {override!r}: {one_line(error)}") from error


def _check_holds(node: Any, where: str, key: str) -> None:
    """Refuse what has no place for a key or an item."""
    if isinstance(node, list):
        if not (key.isdecimal() and int(key) < len(node)):
            last = f", the last is {len(node) - 1}" if node else ""
            raise ValueError(f"{where} has {len(node)} items{last}, so no item {key}; give all of {where}")
    elif not isinstance(node, dict):
        shown = "null" if node is None else repr(node)
        raise ValueError(f"{where} is {shown}, so it has no key {key}; give all of it, as in {where}={{{key}: …}}")
