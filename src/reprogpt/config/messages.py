"""What is wrong with a param, in one line a user can act on: `file: key=value must RULE; FIX`.

The rule is written from the field's type (`Annotated[int, Field(ge=1)] | Literal["auto"]` reads
"must be a whole number >= 1, or auto"), so that sections.py and recipe.py say each thing once.
"""

import difflib
import math
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_ELSEWHERE = {  # what other projects call ours
    "learning_rate": "train.lr",
    "max_lr": "train.lr",
    "max_iters": "train.max_steps",
    "batch_size": "train.batch_tokens",
    "total_batch_size": "train.batch_tokens",
    "gradient_accumulation_steps": "runtime.micro_batch",
    "n_ctx": "model.block_size",
    "dtype": "train.precision",
}
_TRUTHS = {"yes": "true", "on": "true", "y": "true", "1": "true",
           "no": "false", "off": "false", "n": "false", "0": "false"}
"""What YAML 1.1, and other programs, take for true and false."""
_ENDLESS = 2**62
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """The first problem of a pydantic error as one line; how many more there are at its end."""
    problems = {_path(problem, model): problem for problem in reversed(error.errors())}
    # An unknown key often explains the missing one beside it, so it is told first.
    path, problem = min(problems.items(), key=lambda item: item[1]["type"] != "extra_forbidden")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{source}: {_sentence(path, problem, model)}{more}"


def _path(problem: ErrorDetails, model: type[BaseModel]) -> tuple[str | int, ...]:
    """Where the problem is. A union reports every branch, tagged ("literal['auto']"): those tags
    are no keys of ours, so only what the types know, and the last part of an unknown key, stays."""
    path: list[str | int] = []
    annotation: Any = model
    for part in problem["loc"]:
        inner = _child(annotation, part)
        if inner is not None:
            annotation = inner
            path.append(part)
        elif problem["type"] == "extra_forbidden" and part == problem["loc"][-1]:
            path.append(part)
    return tuple(path)


def _sentence(path: tuple[str | int, ...], problem: ErrorDetails, model: type[BaseModel]) -> str:
    key, value = ".".join(map(_name, path)), problem["input"]
    if problem["type"] == "extra_forbidden":
        return f"{key} is not a param{_nearest(model, path)}"
    if problem["type"] == "invalid_key":
        return f"{'.'.join((*map(str, path), _show(value)))} is not a param; remove it"
    if problem["type"] == "missing":
        return f"{key} is missing; add it, as in presets/shakespeare.yaml"
    if problem["type"] == "value_error":  # our own validators: KEY||RULE||FIX, the value looked up
        name, rule, fix = str(problem["ctx"]["error"]).split("||", 2)
        return f"{'.'.join(filter(None, (key, name)))}{_value_at(value, name)} {rule}; {fix}"
    annotation: Any = model
    for part in path:
        annotation = _child(annotation, part)
    return f"{key}={_show(value)} must be {_rule(annotation, value)}; {_fix(annotation, value)}"


def _child(annotation: Any, part: str | int) -> Any:
    """The type one step down: a section's field, or a list's item; None if there is none."""
    for branch, _ in _branches(annotation):
        if isinstance(part, int):
            if get_origin(branch) is list:
                return get_args(branch)[0]
        elif isinstance(branch, type) and issubclass(branch, BaseModel):
            field = branch.model_fields.get(part)
            if field is not None:
                annotation = field.rebuild_annotation()
                return Annotated[annotation, field] if field.title else annotation
    return None


def _branches(annotation: Any, limits: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple]]:
    """The alternatives of a union, each with the limits that Annotated lays on it."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        for extra in metadata:  # Field(ge=1) keeps its limits in .metadata
            limits += (extra, *extra.metadata) if isinstance(extra, FieldInfo) else (extra,)
        yield from _branches(inner, limits)
    elif get_origin(annotation) in (Union, types.UnionType):
        for branch in get_args(annotation):
            yield from _branches(branch, limits)
    else:
        yield annotation, limits


def _limits(limits: tuple[Any, ...]) -> dict[str, Any]:
    named = ("ge", "gt", "le", "lt", "min_length", "title")
    return {n: getattr(x, n) for x in limits for n in named if getattr(x, n, None) is not None}


def _rule(annotation: Any, value: Any) -> str:
    """The type in words. Any count has an end somewhere: only who is past it is told of it."""
    told = [(b, _limits(limits)) for b, limits in _branches(annotation)]
    for _, limits in told:
        past = isinstance(value, int | float) and value > _ENDLESS
        if limits.get("le", 0) >= _ENDLESS and not past:
            del limits["le"]
    return ", or ".join(_say(b, limits) for b, limits in told)


def _say(branch: Any, limits: dict[str, Any]) -> str:
    if branch is type(None):
        return "null"
    if "title" in limits:  # what a pattern means
        return str(limits["title"])
    if get_origin(branch) is Literal:
        return " or ".join(", ".join(map(str, get_args(branch))).rsplit(", ", 1))
    if get_origin(branch) is list:
        least = f"of at least {limits['min_length']} " if "min_length" in limits else "of "
        return f"a list {least}{_say(get_args(branch)[0], {})}"
    if isinstance(branch, type) and issubclass(branch, BaseModel):
        first, *others = branch.model_fields
        rest = others[0] if len(others) == 1 else f"{len(others)} more"
        return f"a mapping with {first} and {rest}"
    bounds = " and ".join(f"{_BOUNDS[n]} {limits[n]:_}" for n in _BOUNDS if n in limits)
    return " ".join(filter(None, (_KINDS.get(branch, str(branch)), bounds)))


def _fix(annotation: Any, value: Any) -> str:
    if isinstance(value, int) and not (isinstance(value, bool) or _is_number(value)):
        return "write one of fewer digits"
    branches = [(branch, _limits(limits)) for branch, limits in _branches(annotation)]
    words = [str(w) for b, _ in branches if get_origin(b) is Literal for w in get_args(b)]
    if isinstance(value, str):
        close = difflib.get_close_matches(value.lower(), words, n=1, cutoff=0.5)
        if close:
            return f"did you mean {close[0]}?"
    if _is_number(value) and any(b in (int, float) for b, _ in branches):
        if not math.isfinite(float(value)):
            return "write a finite number"
        if isinstance(value, str):
            return "remove the quotes"
    for branch, limits in branches:
        if branch is bool and str(value).lower() in _TRUTHS:
            return f"try {_TRUTHS[str(value).lower()]}"
        if branch is int and isinstance(value, float) and value.is_integer():
            return f"try {int(value)}"
        if branch in (int, float) and _is_number(value):
            if value < limits.get("ge", value):
                return f"try {limits['ge']}"
            if value > limits.get("le", value):
                return f"try {limits['le']}"
        if branch is str and isinstance(value, int | float):
            return "put quotes around it"
        if get_origin(branch) is list and isinstance(value, str | int | float):
            return f"try [{value}]"
    return "see presets/shakespeare.yaml for one that works"


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):  # the last: more than 308 digits
        return False
    return not isinstance(value, bool)


def _nearest(model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    """`; did you mean ...?` for an unknown key: one that stands in another section, or is called
    so elsewhere, else the nearest among its siblings."""
    section: Any = model
    for part in path[:-1]:
        section = _child(section, part)
    names = _fields(section)
    prefix = "".join(f"{part}." for part in path[:-1])
    everywhere = [f"{s}.{n}" for s in model.model_fields for n in _fields(_child(model, s))]
    here = [name for name in everywhere if name.endswith(f".{path[-1]}")]
    if here or path[-1] in _ELSEWHERE:
        return f"; did you mean {here[0] if here else _ELSEWHERE[str(path[-1])]}?"
    close = difflib.get_close_matches(str(path[-1]), names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {prefix}{close[0]}?"
    return f"; remove it (there are: {', '.join(names)})"


def _fields(annotation: Any) -> list[str]:
    return [name for branch, _ in _branches(annotation)
            if isinstance(branch, type) and issubclass(branch, BaseModel)
            for name in branch.model_fields]


def _value_at(values: Any, dotted: str) -> str:
    for part in dotted.split("."):
        if isinstance(values, BaseModel):
            values = values.model_dump()
        if not isinstance(values, Mapping) or part not in values:
            return ""
        values = values[part]
    return f"={_show(values)}"


def _name(part: str | int) -> str:
    """A key as it is, or escaped where it would break the line."""
    return str(part) if str(part).isprintable() else repr(part)


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
