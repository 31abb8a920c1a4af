"""What ladder/params.yaml says of each rung, and where a rung's files are."""

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
    """The rungs, in climbing order."""
    return list(read_yaml(PARAMS_FILE)["rungs"])


def params(rung: str | None = None) -> Config:
    """The params that all rungs share, with what ``rung`` adds laid on them.

    Raises ConfigError, for a rung that does not exist among others.
    """
    shared = read_yaml(PARAMS_FILE)
    rungs = shared.pop("rungs")
    if rung is not None and rung not in rungs:
        wrong = f"rungs has no {rung}" if rung else "climbing takes a rung's name"
        raise ConfigError(f"{PARAMS_FILE}: {wrong}; there are: {', '.join(rungs)}")
    cfg = Config.parse(merge(shared, rungs[rung] if rung else {}), source=str(PARAMS_FILE))
    if cfg.model.init_from is not None:
        raise ConfigError(f"{PARAMS_FILE}: model.init_from={cfg.model.init_from!r} must be null: a "
                          "rung begins with random weights; remove it")
    return cfg
