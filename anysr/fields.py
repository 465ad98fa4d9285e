"""Plain values as the fields of a configuration declare them; each refusal names the key and the value."""

from __future__ import annotations

import json
import numbers
import operator
import reprlib
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


def typed_fields(cls: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of these fields of a dataclass, numbers of other libraries as Python's.

    Args:
        cls: with fields of int, float, bool, literals, tuples of a fixed length, and these or None.
        values: by the names of fields.
        where: the key that ``values`` stand at.

    Raises:
        ValueError: a value of another type.
    """
    kinds = get_type_hints(cls)
    return {name: typed(value, kinds[name], f"{where}.{name}") for name, value in values.items()}


def set_typed(config: Any, where: str) -> None:
    """Give the fields of a frozen dataclass, made by hand, their types; arguments and errors as for typed_fields."""
    for name, value in typed_fields(type(config), vars(config), where).items():
        object.__setattr__(config, name, value)


def typed(value: Any, kind: Any, where: str) -> Any:
    """One value; arguments and errors as for :func:`typed_fields`."""
    try:
        return _as(value, kind)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where} must be {_in_words(kind)}, got {reprlib.repr(value)}") from None


def _as(value: Any, kind: Any) -> Any:
    origin, options = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else _as(value, options[0])
    if origin is Literal:
        return options[[(type(option), option) for option in options].index((type(value), value))]
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_as(item, option) for item, option in zip(value, options, strict=True))
    if (kind is bool) != isinstance(value, bool):
        raise TypeError
    if kind is float and not isinstance(value, numbers.Real):  # float() reads texts too
        raise TypeError
    return operator.index(value) if kind is int else kind(value)


def _in_words(kind: Any) -> str:
    origin, options = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return f"{_in_words(options[0])}, or null"
    if origin is Literal:
        return " or ".join(json.dumps(option) for option in options)
    if origin is tuple:
        return f"a list of {len(options)}, each {_in_words(options[0])}"
    return _WORDS[kind]
