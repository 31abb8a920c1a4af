"""params.yaml as text: read the way DVC reads it, merged with overlays, errors said in one line.

DVC parses YAML 1.2 (``6e-4`` is a number, ``on`` is a word, a key given twice is an error).
PyYAML speaks 1.1, so its resolvers are replaced here; a test compares the two on odd documents.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


class ConfigError(ValueError):
    """What the user asked for cannot be; the message is one line: file, key, value, rule, fix."""


class _Yaml12(yaml.SafeLoader):
    """YAML 1.2's core schema on PyYAML's parser; a repeated key is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: {key} is given twice; remove one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, 10 if text.lstrip("+-").isdigit() else 0)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = str(self.construct_scalar(node)).replace("_", "").lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*\.[0-9_]*)(?:[eE][-+]?[0-9]+)?"
              r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     list("-+0123456789.")),
):
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"),
                                  _first)
_Yaml12.add_constructor("tag:yaml.org,2002:int", _Yaml12.construct_yaml_int)
_Yaml12.add_constructor("tag:yaml.org,2002:float", _Yaml12.construct_yaml_float)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError: missing, not YAML, or not a mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; `python -m pipeline.preset shakespeare` "
                          "writes params.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        values = yaml.load(text, Loader=_Yaml12)  # noqa: S506 (a SafeLoader)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "is not YAML"
        raise ConfigError(f"{path}: {where}{problem}; correct the YAML there") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of sections, not a "
                          f"{type(values).__name__}; see presets/shakespeare.yaml")
    return values


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``overlay`` laid on it: mappings merge, everything else replaces."""
    merged = dict(base)
    for key, value in overlay.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """The first problem of a pydantic error as `file: key=value must RULE; FIX`."""
    problems = error.errors()
    # An unknown key often explains the missing one beside it, so it is told first.
    problem = min(problems, key=lambda p: p["type"] != "extra_forbidden")
    line = _sentence(problem, model)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{source}: {line}{more}"


def _sentence(problem: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    # A union reports every branch: its tags ("int", "literal['auto']") are no keys of ours.
    path = [p for p in problem["loc"] if isinstance(p, int) or p.isidentifier()]
    path = [p for p in path if p not in ("int", "str", "bool", "float", "constrained")]
    key = ".".join(map(str, path))
    value = problem["input"]
    if kind == "extra_forbidden":
        return f"{key} is not a param{_nearest(model, path)}"
    if kind == "missing":
        return f"{key} is missing; add it, as in presets/shakespeare.yaml"
    if kind == "value_error":  # our own validators: KEY||RULE||FIX, the value looked up
        name, rule, fix = str(context["error"]).split("||")
        full = ".".join(filter(None, (key, name)))
        return f"{full}{_value_at(value, name)} {rule}; {fix}"
    rule = problem["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    return f"{key}={_show(value)} {rule}; correct it"


def _nearest(model: type[BaseModel], path: list[Any]) -> str:
    """`; did you mean ...?` for an unknown key, searched among its siblings, then everywhere."""
    siblings: Any = model
    for part in path[:-1]:
        field = getattr(siblings, "model_fields", {}).get(part)
        siblings = _section_type(field.annotation) if field else None
    names = {n: n for n in getattr(siblings, "model_fields", {})}
    close = difflib.get_close_matches(str(path[-1]), names, n=1, cutoff=0.5)
    prefix = ".".join(map(str, path[:-1]))
    if close:
        return f"; did you mean {f'{prefix}.' if prefix else ''}{close[0]}?"
    for section, field in model.model_fields.items():
        inner = _section_type(field.annotation)
        if inner is not None and path[-1] in inner.model_fields:
            return f"; did you mean {section}.{path[-1]}?"
    return f"; remove it (there are: {', '.join(names)})" if names else "; remove it"


def _section_type(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _value_at(values: Any, dotted: str) -> str:
    for part in dotted.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return ""
        values = values[part]
    return f"={_show(values)}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
