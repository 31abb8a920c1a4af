"""What a stage started from, and whether it still stands when the stage ends.

DVC hashes params and dependencies when a stage has ENDED. Without a seal, a line edited during
an hour of training would be locked as what was trained, and the old weights served from the cache
as the new line's. So a stage notes both at its start, and fails at its end if either moved.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprogpt.config.yaml_file import flatten, read_yaml
from reprogpt.errors import ConfigError

DOING = {
    "download": "downloading",
    "tokenize": "tokenizing",
    "train": "training",
    "evaluate": "evaluating",
    "sample": "sampling",
}
ABSENT = "absent"


@dataclass(frozen=True)
class Seal:
    """The params and source files that dvc.yaml lists for one stage, as they were."""

    stage: str
    where: Path
    """The folder that the stage's paths are relative to."""
    wanted: list[Any]
    """`params:` as dvc.yaml has it: `a.b` in params.yaml, or `{file: [a.b, ...]}`."""
    values: dict[tuple[str, str], Any]
    """(file, dotted key) -> value"""
    sources: dict[str, str]
    """path -> sha256"""

    @classmethod
    def take(cls, stage: str, dvc_file: Path = Path("dvc.yaml")) -> "Seal":
        """Notes what ``stage`` depends on now. Raises ConfigError if ``dvc_file`` lacks it.

        A stage of a matrix is named as DVC names it, stage@value; `${item.KEY}` is that value.
        """
        name, _, value = stage.partition("@")
        stages = read_yaml(dvc_file).get("stages") or {}
        if name not in stages:
            raise ConfigError(f"{dvc_file}: has no stage {name}; run from the project's root")
        entry = _filled(stages[name], value)
        where = dvc_file.parent / entry.get("wdir", ".")
        wanted = entry.get("params") or []
        sources = [str(where / dep) for dep in entry.get("deps") or [] if _is_code(dep)]
        return cls(stage, where, wanted, dict(_values(wanted, where)),
                   {path: _sha256(Path(path)) for path in sources})

    def broken(self) -> str | None:
        """One line that names the first param or file that changed since, or None."""
        doing = DOING.get(self.stage, self.stage)
        try:
            now = dict(_values(self.wanted, self.where))
        except ConfigError as error:
            return f"{error} (it changed while {doing}: put it back and run dvc repro)"
        for file, key in sorted(self.values.keys() | now.keys()):
            before, after = (v.get((file, key), ABSENT) for v in (self.values, now))
            if before != after or type(before) is not type(after):  # 1 == 1.0 == True
                return (f"{file} changed while {doing}: {key} {_show(before)} -> {_show(after)}; "
                        "put it back and run dvc repro")
        for path, digest in self.sources.items():
            if _sha256(Path(path)) != digest:
                return f"{path} changed while {doing}; put it back and run dvc repro"
        return None


def _filled(entry: Any, value: str) -> Any:
    """A stage's entry with the value of its matrix in all places that ask for it."""
    if isinstance(entry, Mapping):
        return {_filled(k, value): _filled(v, value) for k, v in entry.items()}
    if isinstance(entry, list):
        return [_filled(e, value) for e in entry]
    return re.sub(r"\$\{item\.\w+\}", value, entry) if isinstance(entry, str) else entry


def _is_code(dep: Any) -> bool:
    return isinstance(dep, str) and dep.endswith(".py")


def _values(wanted: list[Any], where: Path) -> Iterator[tuple[tuple[str, str], Any]]:
    for entry in wanted:
        files = entry if isinstance(entry, Mapping) else {"params.yaml": [entry]}
        for file, keys in files.items():
            path = where / file
            for key, value in flatten(read_yaml(path)).items():
                if not keys or any(key == k or key.startswith(f"{k}.") for k in keys):
                    yield (str(path), key), value


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ABSENT


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
