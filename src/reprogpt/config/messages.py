"""What is wrong with a param, in one line: `file: key=value must RULE; FIX`.

Pydantic states most rules. This file names the key as params.yaml does, and adds the fix.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from reprogpt.errors import ParamError

_OTHER_NAMES = {  # of nanoGPT, build-nanogpt, llm.c and transformers
    "learning_rate": "train.lr", "max_lr": "train.lr", "max_iters": "train.max_steps",
    "batch_size": "train.batch_tokens", "total_batch_size": "train.batch_tokens",
    "gradient_accumulation_steps": "runtime.micro_batch", "n_ctx": "model.block_size",
    "dtype": "train.precision"}
_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "1": "true",
             "no": "false", "off": "false", "n": "false", "0": "false"}
_RULES = {"int_type": "be a whole number", "float_type": "be a number", "string_type": "be text",
          "bool_type": "be true or false", "list_type": "be a list", "model_type": "be a mapping",
          "too_short": "not be empty", "string_too_short": "not be empty",
          "string_pattern_mismatch": "have the form that sections.py gives"}
_NUMBER = r"[-+]?[\d_.]+(e[-+]?\d+)?"
_BRANCH = re.compile(r"(constrained-)?(int|float|str)|bool|literal\[.*\]")
"""Pydantic's tags for the branches of a union, which it appends to the path."""


def explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """The first problem of ``error`` as one line, with the number of further problems."""
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for problem in error.errors():
        path = tuple(str(p) for p in problem["loc"] if not _BRANCH.fullmatch(str(p)))
        found.setdefault(path, []).append(problem)
    # First an unknown key: it often explains the missing one beside it.
    path, problems = min(found.items(), key=lambda item: item[1][0]["type"] != "extra_forbidden")
    sentence = _sentence(path, problems, model)
    # A misspelt key is one problem, although the key that was meant is missing, too.
    others = [key for key in found if not sentence.endswith(f"did you mean {'.'.join(key)}?")]
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    return f"{source}: {sentence}{more}"


def _sentence(path: tuple[str, ...], problems: list[ErrorDetails], model: type[BaseModel]) -> str:
    """``problems``: one for each branch of the param's type."""
    kind, value = problems[0]["type"], problems[0]["input"]
    key = ".".join(p if p.isprintable() else repr(p) for p in path)
    if kind in ("extra_forbidden", "invalid_key"):
        return f"{key} is not a param; {_nearest(path, model)}"
    if kind == "missing":
        return f"{key} is missing; add it, as in presets/shakespeare.yaml"
    error = problems[0].get("ctx", {}).get("error")
    if isinstance(error, ParamError):
        for part in error.key.split("."):
            value = value.get(part, error) if isinstance(value, Mapping) else error
        shown = "" if value is error else f"={show(value)}"
        return f"{'.'.join(filter(None, (key, error.key)))}{shown} {error.rule}; {error.fix}"
    rules = [_RULES.get(p["type"], p["msg"].removeprefix("Input should ")) for p in problems]
    rule = " or ".join([rules[0], *(r.removeprefix("be ") for r in rules[1:])])
    return f"{key}={show(value)} must {rule}; {_fix(value, problems)}"


def _fix(value: Any, problems: list[ErrorDetails]) -> str:
    kinds = {problem["type"] for problem in problems}
    context = {name: x for problem in problems for name, x in problem.get("ctx", {}).items()}
    choices = re.findall(r"'([^']+)'", context.get("expected", ""))
    close = difflib.get_close_matches(str(value).lower(), choices, 1, 0.5)
    if close:
        return f"did you mean {close[0]}?"
    if kinds & {"int_type", "float_type"} and re.fullmatch(_NUMBER, str(value)):
        if isinstance(value, str):
            return "remove the quotes"
        if abs(value) < 1e15:
            return f"try {round(value)}"
    if "ge" in context or "le" in context:
        return f"try {context.get('ge', context.get('le'))}"
    if "bool_type" in kinds and str(value).lower() in _BOOLEANS:
        return f"try {_BOOLEANS[str(value).lower()]}"
    if "list_type" in kinds and isinstance(value, str | int | float):
        return f"try [{show(value)}]"
    if "string_type" in kinds and not isinstance(value, list | dict | None):
        return "put quotes around it"
    return "see presets/shakespeare.yaml for one that works"


def _nearest(path: tuple[str, ...], model: type[BaseModel]) -> str:
    """The param that an unknown key stands for, by its name in another section or project."""
    *sections, name = path
    siblings = model
    for section in sections:
        siblings = _section(siblings, section) or siblings
    elsewhere = [f"{section}.{name}" for section in model.model_fields
                 if name in getattr(_section(model, section), "model_fields", ())]
    if elsewhere or name in _OTHER_NAMES:
        return f"did you mean {elsewhere[0] if elsewhere else _OTHER_NAMES[name]}?"
    close = difflib.get_close_matches(name, siblings.model_fields, 1, 0.5)
    if close:
        return f"did you mean {'.'.join((*sections, close[0]))}?"
    return f"remove it (there are: {', '.join(siblings.model_fields)})"


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section that a field holds, also one that may be null."""
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    kinds = [kind for kind in (annotation, *get_args(annotation))
             if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return kinds[0] if kinds else None


def show(value: Any) -> str:
    """``value`` as YAML has it, on one line of at most 60 characters."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
