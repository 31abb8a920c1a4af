"""YAML files: read with DVC's parser, merged with overlays, flattened to dotted keys.

That is ruamel.yaml for YAML 1.2: `6e-4` is a number, `on` is text, a repeated key is an error. So a
run uses the values that `dvc params diff` shows.
"""

import errno
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprogpt.errors import ConfigError

MAX_BYTES = 10**6
"""Of a YAML file: ruamel.yaml parses about 1 MB a second, and every command reads params.yaml."""
MAX_VALUES = 10**5
"""Values of a YAML file, an alias (*name) counted as all that it repeats."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError with file and line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    fix = ("`python -m pipeline.preset shakespeare` writes it"
           if Path(path).name == "params.yaml" else "run from the project's root")
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise OSError(errno.EINVAL, "is no regular file")
        if status.st_size > MAX_BYTES:
            raise OSError(errno.EFBIG, "is larger than 1 MB")
        text = Path(path).read_text(encoding="utf-8")
        values = YAML(typ="safe").load(text)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; {fix}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply; {fix}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; it must be a readable file "
                          "of at most 1 MB") from None
    except (YAMLError, ValueError) as error:
        line, problem, fix = 0, str(error), "correct it"
        if isinstance(error, UnicodeDecodeError):
            line = error.object.count(b"\n", 0, error.start) + 1
            problem, fix = f"byte {error.object[error.start]:#x} is not UTF-8", "save it as UTF-8"
        elif isinstance(error, ReaderError):  # a control character, mostly invisible
            line = text.count("\n", 0, error.position) + 1
            problem = f"character #x{error.character:04x} is not allowed in YAML"
        elif isinstance(error, MarkedYAMLError) and error.problem_mark:
            line = error.problem_mark.line + 1
            problem = str(error.problem).partition(" with value")[0]  # a repeated key's two values
        where = f"line {line}: " if line else ""
        raise ConfigError(f"{path}: {where}{' '.join(problem.split())}; {fix}") from None
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise ConfigError(f"{path}: {found} and must be a mapping of sections; {fix}")
    left, count = [values], 0
    while left:
        value, count = left.pop(), count + 1
        if count > MAX_VALUES:
            raise ConfigError(f"{path}: has more than {MAX_VALUES} values; remove its aliases "
                              "(*name), which repeat others")
        left += value.values() if isinstance(value, dict) else (
            value if isinstance(value, list) else ())
    return values


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` updated by ``overlay``: mappings merge, every other value is replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{a: {b: 1}}`` -> ``{"a.b": 1}``; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
