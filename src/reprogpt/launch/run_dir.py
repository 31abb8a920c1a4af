"""runs/<fingerprint>/: a run's checkpoints, lock and run.json. No out: DVC would delete it."""

import contextlib
import fcntl
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError

from reprogpt.config import Config
from reprogpt.errors import ConfigError
from reprogpt.storage.files import naming, write_json
from reprogpt.storage.paths import main_checkout


@dataclass(frozen=True)
class Paths:
    """Where a training reads and writes, all absolute."""

    tokens: str  # folder of the shards and their manifest
    init: str  # folder of initial weights; without config.json in it they are random
    model: str  # folder of the finished model
    csv: str
    json: str
    hellaswag: str = ""  # HellaSwag's validation file, for train.hellaswag_interval
    probes: str = ""  # folder of train_samples.md, train_hellaswag.csv, loss.csv; empty: none
    reference: str = ""  # file of the reference band; empty: none applies


@dataclass(frozen=True)
class RunDir:
    """One run's folder and the content of its run.json."""

    path: Path
    fingerprint: str
    """Of the present params, data and code. ``path.name`` is an older one when ``runtime.resume``
    continues a run under edited code."""
    config: Config
    paths: Paths
    contents: tuple[tuple[str, str], ...] = ()
    """(name, sha256) of the data that decides the weights: manifest, initial weights."""

    @classmethod
    def create(cls, root: Path, fingerprint: str, config: Config, paths: Paths,
               contents: Iterable[tuple[str, str]] = ()) -> Self:
        """Makes or finds the folder; writes nothing into it. Raises ConfigError when
        ``runtime.resume`` names no run, or one of other params or data."""
        run = cls(root / (config.runtime.resume or fingerprint), fingerprint, config, paths,
                  tuple(sorted(contents)))
        if config.runtime.resume:
            run._check_resume()
        run.path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run that :meth:`write` recorded, which no later edit of params.yaml can reach. Raises
        ValueError."""
        known = _read(path / "run.json")
        config = Config.parse(known.config, source=str(path / "run.json"))
        return cls(path, known.fingerprints[-1], config, known.paths, known.contents)

    def write(self) -> None:
        """Writes run.json. Only the holder of the lock may: running processes depend on it."""
        known: tuple[str, ...] = ()
        with contextlib.suppress(OSError, ValueError):  # missing or torn
            known = _read(self.path / "run.json").fingerprints
        write_json(self.path / "run.json", {
            "fingerprints": [*(f for f in known if f != self.fingerprint), self.fingerprint],
            "paths": asdict(self.paths), "contents": self.contents,
            "config": self.config.model_dump(mode="json")})

    def _check_resume(self) -> None:
        name = f"params.yaml: runtime.resume={self.path.name}"
        if not checkpoint_steps(self.path):
            raise ConfigError(f"{name} has no checkpoint in {self.path.parent}; name a run that "
                              "is there, or set it to null")
        try:
            before = RunDir.open(self.path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name} cannot be continued: {error}; set it to null") from None
        old, new = before.identity(), self.identity()
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise ConfigError(f"{name} was trained with {key}={old.get(key)}, not "
                                  f"{new.get(key)}: only its code may differ; put that back, "
                                  "or set runtime.resume to null")
        if self.trained and self.fingerprint != before.fingerprint:
            raise ConfigError(f"{name} is finished, by other code than this; set it to null to "
                              "train anew")

    def identity(self) -> dict[str, Any]:
        """Key -> value of everything but code that decides this run's weights."""
        flat = {f"{section}.{key}": value for section in ("model", "train")
                for key, value in getattr(self.config, section).canonical().items()}
        return flat | {"seed": self.config.seed} | {name: sha[:16] for name, sha in self.contents}

    def lock(self) -> int:
        """Locks the run until the last process that holds the returned descriptor ends: a child may
        outlive the launcher. Raises ConfigError when it is taken."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode() or "unknown"
            os.close(descriptor)
            raise ConfigError(f"{self.path}: another trainer (process {holder}) is at work on "
                              "this run; wait for it or stop it") from None
        with naming(self.path / "lock"):
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        return descriptor

    @property
    def trained(self) -> bool:
        """Whether there is a checkpoint of the last step: only the model is still to be written."""
        last = max(checkpoint_steps(self.path), default=-1)
        return self.done.exists() or last >= self.config.train.max_steps

    def ending(self) -> dict[str, Any]:
        """{"failed": reason} or {"done": True}; empty when the run is to be continued."""
        if self.failure.exists():
            return {"failed": self.failure.read_text(encoding="utf-8")}
        return {"done": True} if self.done.exists() else {}

    @property
    def failure(self) -> Path:
        """File in which a training process leaves the line that says why retrying is no use."""
        return self.path / "failure.txt"

    @property
    def done(self) -> Path:
        """File that exists once everything that a finished run leaves is written."""
        return self.path / "done"


@dataclass(frozen=True)
class _Saved:
    """Contents of run.json."""

    fingerprints: Annotated[tuple[str, ...], Field(min_length=1)]
    paths: Paths
    contents: tuple[tuple[str, str], ...]
    config: dict[str, Any]


def _read(path: Path) -> _Saved:
    """Reads run.json. Raises OSError, and ValueError when it is damaged."""
    try:
        return TypeAdapter(_Saved).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise ValueError(f"{path}: is damaged ({error.errors()[0]['msg']})") from None


def checkpoint_steps(run: Path) -> list[int]:
    """The steps of the checkpoints in ``run``, ascending. Files of other names are not ours."""
    names = [p.stem[5:] for p in run.glob("step_*.pt")]
    return sorted(int(name) for name in names if name.isdecimal() and f"{int(name):06d}" == name)


def runs_root(checkout: Path) -> Path:
    """The runs/ of ``checkout``, or of the main one when this is a temporary copy by DVC."""
    return main_checkout(checkout) / "runs"
