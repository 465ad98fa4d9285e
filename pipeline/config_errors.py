"""What is wrong with a configuration, in the user's words: one line, the nearest valid key, one type of a union."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.network_kinds import is_of, without_class

Schema = Callable[[], dict[str, Any]]


def explain(error: ValidationError, classes: Mapping[str, str], schema: Schema) -> str:
    """All faults of a configuration.

    Args:
        error: what pydantic says.
        classes: the configuration classes of the encoder and the decoder that were asked for.
        schema: gives the configuration's JSON schema, for the keys that would be valid.
    """
    found = error.errors()
    faults = [without_class(fault) for fault in found if is_of(classes, fault["loc"])] or found
    described = deepcopy(schema())  # which others read, too
    for part, name in classes.items():  # of the other kinds no key would fit
        described["$defs"]["ModelConfig"]["properties"][part] = {"$ref": f"#/$defs/{name}"}
    return "; ".join(dict.fromkeys(_explained(fault, described) for fault in _of_one_type(faults, described)))


def refuse_booleans(values: Any, schema: Schema, location: tuple[str | int, ...] = ()) -> None:
    """Refuse true and false where numbers belong, which pydantic takes for 1 and 0.

    Raises:
        UserError: the first such key.
    """
    if isinstance(values, Mapping | list | tuple):
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            refuse_booleans(value, schema, (*location, key))
    elif isinstance(values, bool):
        types = {node.get("type") for node in _nodes(location, schema())}
        if types & {"integer", "number"} and "boolean" not in types:
            where, given = ".".join(map(str, location)), "true (or yes, on)" if values else "false (or no, off)"
            raise UserError(f"{where} must be a number, got {given}")


def _of_one_type(faults: Sequence[Any], schema: dict[str, Any]) -> list[Any]:
    """Without the types that a value is not of, where it may be of several, and without what follows from the rest."""
    kept = []
    for fault in faults:
        location = fault["loc"]
        is_branch = _is_branch(location, schema)
        field = location[:2] if is_branch else location
        others = [one for one in faults if one is not fault and one["loc"][: len(field)] == field]
        if is_branch and _is_type(fault) and not all(map(_is_type, others)):
            continue
        if fault["type"] == "too_short" and others:
            continue  # of its items, which were left out as faulty themselves
        kept.append({**fault, "loc": (*location[:2], *location[3:]) if is_branch else location})
    return kept


def _is_branch(location: Sequence[str | int], schema: dict[str, Any]) -> bool:
    """Whether a name below a plain value of a section is that of a type of the value's union."""
    if len(location) < 3 or location[0] == "model" or not isinstance(location[2], str):
        return False
    return not any(node.get("properties") for node in _nodes(location[:2], schema))


def _is_type(fault: Any) -> bool:
    return str(fault["type"]).endswith("_type")


def _explained(fault: Any, schema: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = {key.lower(): key for key in allowed_keys(fault["loc"][:-1], schema)}
        close = difflib.get_close_matches(str(fault["loc"][-1]).lower(), allowed, n=1, cutoff=0.4)
        hint = f"did you mean {'.'.join([*where.split('.')[:-1], allowed[close[0]]])!r}?" if close else ""
        return f"unknown key {where!r}; {hint or 'allowed here: ' + ', '.join(sorted(allowed.values()))}"
    given = fault.get("input")
    if fault["type"] in ("model_type", "dataclass_type") and where:
        keys = sorted(allowed_keys(fault["loc"], schema))
        got = "null" if given is None else "a list" if isinstance(given, list | tuple) else repr(given)
        return f"{where}: must hold keys ({', '.join(keys)}), as in {where}.{keys[0]}=…, got {got}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool | None) and "got" not in message else ""
    return f"{where}: {message}{shown}" if where else message


def allowed_keys(location: Sequence[str | int], schema: dict[str, Any]) -> list[str]:
    """Valid keys of the section at ``location``, or of the nearest one above it that there is."""
    nodes: list[dict[str, Any]] = [schema]
    for part in location:
        nodes = [child for node in nodes for child in _children(node, part, schema)] or nodes
    return [key for node in nodes for key in node.get("properties", {})]


def is_whole_number(location: Sequence[str | int], schema: dict[str, Any]) -> bool:
    """Whether the value at ``location`` is an integer."""
    return any(node.get("type") == "integer" for node in _nodes(location, schema))


def _nodes(location: Sequence[str | int], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """What the schema says of the value at ``location``: of each type that it may be of."""
    nodes: list[dict[str, Any]] = [schema]
    for part in location:
        nodes = [child for node in nodes for child in _children(node, part, schema)]
    return nodes


def _children(node: dict[str, Any], part: str | int, schema: dict[str, Any]) -> list[dict[str, Any]]:
    child = node.get("properties", {}).get(part)
    if str(part).isdigit():
        one_by_one, index = node.get("prefixItems", []), int(part)
        child = one_by_one[index] if index < len(one_by_one) else node.get("items", child)
    found = [] if child is None else [child, *child.get("anyOf", []), *child.get("allOf", [])]
    return [_resolve(one, schema) for one in found]


def _resolve(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return node if reference is None else schema["$defs"][reference.rsplit("/", 1)[-1]]
