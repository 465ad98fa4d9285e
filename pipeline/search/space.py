"""A search space: a training configuration in which some values are choices.

A space file is an overlay on the training configuration. Any value in it may be ``{choose: [...]}`` or
``{between: [low, high]}``, with ``base: value`` beside it where the base configuration is to have another value
than its file says; the rest is fixed. ``model.subnets`` and ``sampling.group_weights`` may be rules
(see ``partition.py``), and ``model.interweave.interval: null`` stands for no interweaving. The file's own
section ``search:`` says how to search (see ``settings.py``).
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from anysr.config import check_keys
from pipeline.config import RunConfig, TrainingConfig
from pipeline.config_errors import allowed_keys, is_whole_number
from pipeline.config_file import apply_override, json_schema, parse_config, read_yaml, with_named_model
from pipeline.errors import UserError
from pipeline.search.choices import Variable, parse_variable
from pipeline.search.partition import GROUP_KEYS, WEIGHT_KEYS, group_weights, scale_groups
from pipeline.search.settings import SearchSettings, parse_settings
from pipeline.storage.places import Place

Values = Mapping[str, Any]

_RULES = {"model.subnets": GROUP_KEYS, "sampling.group_weights": WEIGHT_KEYS}
_NOT_SEARCHED = ("run", "ray", "tracking", "validation", "data.train", "data.validation", "train.steps")
_MOST_CORNERS = 200


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        settings: how.
        base: the configuration's fixed values; under the keys of rules, the base configuration's.
        rules: the fixed parts of ``model.subnets`` and ``sampling.group_weights`` where they are mappings.
        variables: the choices, by dotted key.
    """

    settings: SearchSettings
    base: dict[str, Any]
    rules: dict[str, dict[str, Any]]
    variables: dict[str, Variable]

    def config(self, chosen: Values) -> TrainingConfig:
        """The configuration with these values for some or all of the choices.

        A rule with choices takes effect when one of them is given; otherwise the base configuration's groups stay.

        Raises:
            UserError: they do not go together.
        """
        values = copy.deepcopy(self.base)
        rules = copy.deepcopy(self.rules)
        chosen = {**{key: v.base[0] for key, v in self.variables.items() if v.base}, **chosen}
        for key, value in chosen.items():
            rule = _rule_of(key)
            if rule not in rules:
                _set(values, key.split("."), value)
            else:
                _set(rules[rule], key.removeprefix(f"{rule}.").split("."), value)
        _without_interweaving(values)
        model = values.setdefault("model", {})
        if self._is_on("model.subnets", chosen):
            model["subnets"] = scale_groups(rules["model.subnets"], model)
        if self._is_on("sampling.group_weights", chosen):
            count = len(model.get("subnets", parse_config({}).model.subnets))
            values.setdefault("sampling", {})["group_weights"] = group_weights(rules["sampling.group_weights"], count)
        return parse_config(values)

    def reference(self) -> TrainingConfig:
        """The configuration without the choices: the base one. Every trial is given the compute of its run."""
        return self.config({})

    def describe(self) -> dict[str, Any]:
        """All of it as plain values, to tell whether another search is the same."""
        variables = {key: asdict(variable) for key, variable in self.variables.items()}
        plain = {"search": self.settings.model_dump(), "base": self.base, "rules": self.rules, "choices": variables}
        described: dict[str, Any] = json.loads(json.dumps(plain))
        return described

    def corners(self) -> Iterator[dict[str, Any]]:
        """Extreme values of the choices, in all combinations or, when these are many, an even sample of them."""
        names = list(self.variables)
        sides = [variable.corners for variable in self.variables.values()]
        count = math.prod(map(len, sides))
        if count <= _MOST_CORNERS:
            yield from (dict(zip(names, corner, strict=True)) for corner in itertools.product(*sides))
            return
        rng = random.Random(0)
        yield dict(zip(names, (side[0] for side in sides), strict=True))
        yield dict(zip(names, (side[-1] for side in sides), strict=True))
        for _ in range(_MOST_CORNERS - 2):
            yield {name: rng.choice(side) for name, side in zip(names, sides, strict=True)}

    @cached_property
    def corner_configs(self) -> list[TrainingConfig]:
        """The configurations of the corners, all of them valid.

        Raises:
            UserError: one is not; its choices are named.
        """
        self.reference()
        found = []
        for corner in self.corners():
            try:
                found.append(self.config(corner))
            except ValueError as error:
                raise UserError(f"{error}; so the space must not hold {_words(corner)}") from None
            except UserError as error:
                if "unknown key" in str(error):
                    raise
                raise UserError(f"{error}; so the space must not hold {_words(corner)}") from None
        return found

    def grid(self) -> dict[str, Sequence[Any]]:
        """All values of each choice.

        Raises:
            UserError: a range without steps.
        """
        sides: dict[str, Sequence[Any]] = {}
        for key, variable in self.variables.items():
            if variable.grid is None:
                raise UserError(
                    f"search.sampler {self.settings.sampler} needs steps: give {key} a step, or list its values"
                )
            sides[key] = variable.grid
        return sides

    def _is_on(self, rule: str, chosen: Values) -> bool:
        if rule not in self.rules:
            return False
        has_choices = any(_rule_of(key) == rule for key in self.variables)
        return not has_choices or any(_rule_of(key) == rule for key in chosen)


def load_space(space: Place, config: Place | None, overrides: Sequence[str] = ()) -> Space:
    """Read a space file over a training configuration, apply ``key.sub=value`` overrides, and check its corners.

    Raises:
        UserError: a file that cannot be read, an unknown key (the nearest valid one is named), a choice that makes
            an invalid configuration, a sampler that wants lists, a name that is too long for a search.
    """
    base = {} if config is None else with_named_model(read_yaml(config))
    overlay = read_yaml(space)
    for override in overrides:
        apply_override(overlay, override)
    check_keys(overlay, ("search", *TrainingConfig.model_fields), str(space))
    settings = parse_settings(overlay.pop("search", None))
    variables: dict[str, Variable] = {}
    fixed = _without_variables(with_named_model(overlay), (), variables)
    rules = {rule: found for rule in _RULES if isinstance(found := _pop(fixed, rule), dict)}
    for key in variables:
        if "." not in key:
            raise UserError(f"{key} is a whole section; write the choices inside it")
        if any(key == name or key.startswith(f"{name}.") for name in _NOT_SEARCHED):
            raise UserError(f"{key} cannot be searched: it would make trials incomparable; fix it to one value")
    if not variables:
        raise UserError(f"{space} holds no choice; write {{choose: [...]}} or {{between: [low, high]}} for a value")
    found = Space(settings, _merged(base, fixed), rules, variables)
    assert found.corner_configs  # made now, before anything else is done
    if settings.sampler in ("grid", "one_at_a_time"):
        found.grid()
    _check_name(found)
    return found


def _check_name(space: Space) -> None:
    """Its trials' names are longer than the search's own."""
    name, number = space.reference().run.name, f"-{space.settings.trials - 1:03d}"
    try:
        RunConfig(name=name and f"{name}{number}")
    except ValidationError:
        raise UserError(
            f"run.name {name!r} is too long for a search, whose trials add {number!r} to it; choose a shorter one"
        ) from None


def _without_variables(node: Any, path: tuple[str, ...], variables: dict[str, Variable]) -> Any:
    """The fixed part of an overlay; its choices go into ``variables``."""
    if isinstance(node, list):
        return [_without_variables(value, (*path, str(i)), variables) for i, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    where = ".".join(path)
    is_variable = "choose" in node or "between" in node
    if is_variable or _is_value(path):
        whole = where == "model.subnets.groups" or is_whole_number(path, json_schema())
        variables[where] = variable = parse_variable(node, where, whole)
        # A list takes the place of the base configuration's: what is chosen inside it has its first value there.
        return (*variable.base, *variable.corners)[0] if any(part.isdigit() for part in path) else None
    if where in _RULES:
        check_keys(node, _RULES[where], where)
    parts = {key: _without_variables(value, (*path, str(key)), variables) for key, value in node.items()}
    return {key: value for key, value in parts.items() if value is not None or node[key] is None}


def _is_value(path: tuple[str, ...]) -> bool:
    """Whether the configuration has no keys below this one, so that a mapping there must be a choice."""
    rule = _rule_of(".".join(path))
    # What a rule's key holds as a list are items of the configuration.
    is_inside_rule = rule is not None and not path[rule.count(".") + 1].isdigit()
    return bool(path) and (is_inside_rule or (".".join(path) not in _RULES and not allowed_keys(path, json_schema())))


def _rule_of(key: str) -> str | None:
    return next((rule for rule in _RULES if key.startswith(f"{rule}.")), None)


def _pop(values: dict[str, Any], key: str) -> Any:
    """The rule at a key, taken out; a plain value stays."""
    section, _, name = key.partition(".")
    parent = values.get(section)
    found = parent.get(name) if isinstance(parent, dict) else None
    return parent.pop(name) if isinstance(parent, dict) and isinstance(found, dict) else None


def _merged(base: Values, overlay: Values) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overlay.items():
        old = base.get(key)
        same_kind = isinstance(value, dict) and isinstance(old, dict) and value.get("kind") in (None, old.get("kind"))
        merged[key] = _merged(old, value) if same_kind else value  # type: ignore[arg-type]
    return merged


def _set(node: Any, path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        child = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
        node = child
    if isinstance(node, list):
        node[int(path[-1])] = value
    else:
        node[path[-1]] = value


def _without_interweaving(values: dict[str, Any]) -> None:
    interweave = values.get("model", {}).get("interweave")
    if isinstance(interweave, dict) and "interval" in interweave and interweave["interval"] is None:
        values["model"]["interweave"] = None


def _words(chosen: Values) -> str:
    return ", ".join(f"{key}={value}" for key, value in chosen.items())
