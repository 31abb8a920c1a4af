"""The default params with an edit."""

import copy
from typing import Any

from reprogpt.config import read_yaml
from tests.conftest import ROOT

BASE = read_yaml(ROOT / "presets/shakespeare.yaml")
MISSING = object()


def edited(key: str, value: Any) -> dict[str, Any]:
    """The default params with one dotted key set, or taken out."""
    values = copy.deepcopy(BASE)
    *path, last = key.split(".")
    section = values
    for part in path:
        section = section[part]
    if value is MISSING:
        del section[last]
    else:
        section[last] = value
    return values


def hub(revision: str) -> dict[str, Any]:
    return {"id": "a/b", "config": None, "split": "train", "text_field": "text",
            "revision": revision}
