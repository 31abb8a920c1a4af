"""runs/<fingerprint>/: one training run's checkpoints, lock and written-down identity.

It lies outside DVC's outs, because DVC deletes those before a stage runs; and in the main
checkout even when DVC trains in a temporary copy of it, so that a failed experiment resumes too.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from reprogpt.config import Config, ConfigError
from reprogpt.files import write_json


@dataclass(frozen=True)
class Paths:
    """Where a training reads and writes, all absolute."""

    tokens: str
    """The folder of shards and their manifest."""
    init: str
    """The folder of initial weights; without config.json the run starts from random ones."""
    model: str
    """The finished model's folder."""
    csv: str
    json: str
    hellaswag: str = ""
    """HellaSwag's validation file, for train.hellaswag_interval."""
    probes: str = ""
    """The folder of train_samples.md and train_hellaswag.csv; empty for none of them."""


@dataclass(frozen=True)
class RunDir:
    """One run's folder, and what stands in its run.json."""

    path: Path
    fingerprint: str
    config: Config
    paths: Paths

    @classmethod
    def create(cls, root: Path, fingerprint: str, config: Config, paths: Paths) -> Self:
        """Makes the folder, or finds it again, and writes down what is to run in it.

        With ``runtime.resume`` the folder is that of the named run. Raises ConfigError when
        there is none.
        """
        name = config.runtime.resume or fingerprint
        path = root / name
        if config.runtime.resume and not list(path.glob("step_*.pt")):
            raise ConfigError(f"params.yaml: runtime.resume={name} has no checkpoint in {root}; "
                              "name a run that is there, or set it to null")
        path.mkdir(parents=True, exist_ok=True)
        known = json.loads((path / "run.json").read_text()) if (path / "run.json").exists() else {}
        codes = known.get("fingerprints", [])
        codes += [fingerprint] if fingerprint not in codes else []
        record = {"fingerprints": codes, "paths": asdict(paths),
                  "config": config.model_dump(mode="json")}
        write_json(path / "run.json", record)
        return cls(path, name, config, paths)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run that :meth:`create` wrote down; training processes start from it alone, so
        an edit of params.yaml in the meantime cannot reach them."""
        known: dict[str, Any] = json.loads((path / "run.json").read_text())
        config = Config.parse(known["config"], source=str(path / "run.json"))
        return cls(path, path.name, config, Paths(**known["paths"]))

    def lock(self) -> int:
        """Takes the run for this process and its children; returns the locked descriptor.

        Raises ConfigError when another trainer has it. The lock ends with the last process
        that holds the descriptor, so a killed launcher frees nothing its workers still use.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode() or "unknown"
            os.close(descriptor)
            raise ConfigError(f"{self.path}: another trainer (process {holder}) is at work on "
                              "this run; wait for it or stop it") from None
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        os.set_inheritable(descriptor, True)
        return descriptor

    @property
    def failure(self) -> Path:
        """Where a training process leaves the one line that says why trying again is no use."""
        return self.path / "failure.txt"


def runs_root(checkout: Path) -> Path:
    """The runs/ of ``checkout``, or of the main one when this is a copy in DVC's temporaries."""
    main, inside, _ = str(checkout.resolve()).partition("/.dvc/tmp/exps/")
    return Path(main if inside else checkout) / "runs"
