"""params.yaml as text: read the way DVC reads it, and merged with overlays.

DVC parses YAML 1.2 (``6e-4`` is a number, ``on`` is a word, a key given twice is an error).
PyYAML speaks 1.1, so its resolvers are replaced here; a test compares the two on odd documents.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from reprogpt.errors import ConfigError

_MERGE = "tag:yaml.org,2002:merge"


class _Yaml12(yaml.SafeLoader):
    """YAML 1.2's core schema on PyYAML's parser; a repeated key is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: a key must be text; put quotes around it")
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: {key} is given twice; remove one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(_number(node, lambda: int(text, 10 if text.lstrip("+-").isdigit() else 0)))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text = str(self.construct_scalar(node)).replace("_", "").lower()
        return _number(node, lambda: float(text.replace(".inf", "inf").replace(".nan", "nan")))


def _number(node: yaml.ScalarNode, convert: Callable[[], float]) -> float:
    """`0x` or `._` look like numbers to the resolver and are none."""
    try:
        return convert()
    except ValueError:
        raise ConfigError(f"line {node.start_mark.line + 1}: {node.value} is not a number; "
                          "correct it, or put quotes around it") from None


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9_]+)", list("-+0123456789")),
    ("float", r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?"
              r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"
              r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     list("-+0123456789.")),
    ("merge", r"<<", ["<"]),
    ("value", r"=", ["="]),
):
    _Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"),
                                  _first)
_Yaml12.add_constructor("tag:yaml.org,2002:int", _Yaml12.construct_yaml_int)
_Yaml12.add_constructor("tag:yaml.org,2002:float", _Yaml12.construct_yaml_float)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError: missing, not YAML, or not a mapping."""
    fix = ("`python -m pipeline.preset shakespeare` writes it"
           if Path(path).name == "params.yaml" else "run from the project's root")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; {fix}") from None
    except UnicodeDecodeError as error:
        line = error.object[:error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line}: byte {error.object[error.start]:#x} is not UTF-8 "
                          "text; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; it must be a file") from None
    try:
        values = yaml.load(text, Loader=_Yaml12)  # noqa: S506 (a SafeLoader)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, RecursionError, KeyError, AttributeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "is not YAML"
        if isinstance(error, yaml.reader.ReaderError):  # a control character, mostly unseen
            where = f"line {text.count(chr(10), 0, error.position) + 1}: "
            problem = f"character #x{int(error.character):04x} is not allowed in YAML"
        raise ConfigError(f"{path}: {where}{problem}; correct the YAML there") from None
    if values is None:
        raise ConfigError(f"{path}: is empty and must be a mapping of sections; {fix}")
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


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{a: {b: 1}}`` -> ``{"a.b": 1}``; an empty mapping stands for itself."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
