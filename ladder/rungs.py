"""The ladder's params, and where its files are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import ROOT
from reprogpt.config import Config, merge, read_yaml
from reprogpt.errors import ConfigError

FOLDER = Path("ladder")
DVC_FILE = FOLDER / "dvc.yaml"
PARAMS_FILE = FOLDER / "params.yaml"
TOKENS = ROOT / FOLDER / "data/tokens"
MODELS, METRICS, SAMPLES = (ROOT / FOLDER / name for name in ("models", "metrics", "samples"))


def names() -> list[str]:
    """The rungs of ladder/params.yaml, in its order."""
    return list(read_yaml(PARAMS_FILE)["rungs"])


def pick(file: Path, key: str, options: Mapping[str, Any], name: str) -> Any:
    """The entry ``name`` of ``key`` in a params file. Raises ConfigError."""
    if name not in options:
        raise ConfigError(f"{file}: {key} has no {name!r}; choose one of {', '.join(options)}")
    return options[name]


def params(rung: str | None = None) -> Config:
    """The params that all rungs share, merged with those of ``rung``.

    Raises ConfigError, also for a rung that does not exist.
    """
    shared = read_yaml(PARAMS_FILE)
    rungs = shared.pop("rungs")
    own = {} if rung is None else pick(PARAMS_FILE, "rungs", rungs, rung)
    cfg = Config.parse(merge(shared, own), source=str(PARAMS_FILE))
    if cfg.model.init_from is not None:
        raise ConfigError(f"{PARAMS_FILE}: model.init_from={cfg.model.init_from!r} must be null: a "
                          "rung starts from random weights; set it to null")
    return cfg
