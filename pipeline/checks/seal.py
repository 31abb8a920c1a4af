"""Detects edits of a stage's params or code while the stage runs.

DVC hashes params and deps when a stage has ENDED: a line edited meanwhile would be locked as what
was trained. So a stage records both when it starts, and fails at its end if either has changed.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprogpt.config import flatten, read_yaml
from reprogpt.errors import ConfigError

DOING = {"download": "downloading", "tokenize": "tokenizing", "train": "training",
         "evaluate": "evaluating", "sample": "sampling"}


@dataclass(frozen=True)
class Seal:
    """The params and source files that dvc.yaml lists for a stage, as they were at its start."""

    stage: str
    dvc_file: Path
    values: dict[tuple[str, str], Any]  # (file, dotted key) -> value
    sources: dict[str, str]  # path -> sha256

    @classmethod
    def take(cls, stage: str, dvc_file: Path = Path("dvc.yaml")) -> "Seal":
        """Records what ``stage`` depends on. Raises ConfigError if ``dvc_file`` lacks the stage.

        ``stage`` is named as DVC names it: stage@value for one of a matrix. `${item.KEY}` is then
        that value, and `${a.b}` the value of a.b in the params.yaml beside ``dvc_file``.
        """
        name, _, value = stage.partition("@")
        stages = read_yaml(dvc_file).get("stages") or {}
        if name not in stages:
            raise ConfigError(f"{dvc_file}: has no stage {name}; run from the project's root")
        params = flatten(read_yaml(dvc_file.with_name("params.yaml")))
        entry = json.loads(re.sub(r"\$\{([\w.]+)\}", lambda found: value if found[1].startswith(
            "item.") else str(params.get(found[1])), json.dumps(stages[name])))
        where = dvc_file.parent / entry.get("wdir", ".")
        sources = [where / dep for dep in entry.get("deps") or [] if str(dep).endswith(".py")]
        return cls(stage, dvc_file, dict(_values(entry.get("params") or [], where)),
                   {str(path): _sha256(path) for path in sources})

    def changed(self) -> str | None:
        """One line that names the first param or file that has changed since, or None."""
        doing = DOING.get(self.stage, self.stage)
        try:
            now = Seal.take(self.stage, self.dvc_file)
        except ConfigError as error:
            return f"{error} (it changed while {doing}: put it back and run dvc repro)"
        for file, key in sorted(self.values.keys() | now.values.keys()):
            before, after = (seal.values.get((file, key), "absent") for seal in (self, now))
            if before != after or type(before) is not type(after):  # 1 == 1.0 == True
                return (f"{file} changed while {doing}: {key} {before} -> {after}; put it back and "
                        "run dvc repro")
        for path, digest in self.sources.items():
            if now.sources.get(path) != digest:
                return f"{path} changed while {doing}; put it back and run dvc repro"
        return None


def _values(wanted: list[Any], where: Path) -> Iterator[tuple[tuple[str, str], Any]]:
    """((file, key), value) of a stage's `params:`, `a.b` in params.yaml or `{file: [a.b, ...]}`."""
    for entry in wanted:
        files = entry if isinstance(entry, dict) else {"params.yaml": [entry]}
        for file, keys in files.items():
            path = where / file
            for key, value in flatten(read_yaml(path)).items():
                if not keys or any(key == k or key.startswith(f"{k}.") for k in keys):
                    yield (str(path), key), value


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"
