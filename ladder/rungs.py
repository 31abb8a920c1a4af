"""The ladder's params, and where its files are."""

from pathlib import Path

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


def params(rung: str | None = None) -> Config:
    """The params that all rungs share, merged with those of ``rung``.

    Raises ConfigError, also for a rung that does not exist.
    """
    shared = read_yaml(PARAMS_FILE)
    rungs = shared.pop("rungs")
    if rung is not None and rung not in rungs:
        raise ConfigError(f"{PARAMS_FILE}: rungs has no {rung!r}; "
                          f"choose one of {', '.join(rungs)}")
    cfg = Config.parse(merge(shared, rungs[rung] if rung else {}), source=str(PARAMS_FILE))
    if cfg.model.init_from is not None:
        raise ConfigError(f"{PARAMS_FILE}: model.init_from={cfg.model.init_from!r} must be null: a "
                          "rung starts from random weights; set it to null")
    return cfg
