"""Where DVC can follow: below the checkout, which it finds out only when a stage has ended."""

from pathlib import Path

from pipeline import ROOT
from reprogpt.params_file import ConfigError

PARENTS = ("data", "models", "metrics")
"""The folders of all outs."""


def refuse_links(root: Path = ROOT) -> None:
    """Raises ConfigError when outs would be written outside of this checkout, by a link."""
    for name in PARENTS:
        target = (root / name).resolve()
        if not target.is_relative_to(root.resolve()):
            raise ConfigError(f"{name}: is a link to {target}, outside of this checkout, where DVC "
                              "keeps no outs; make it a folder here, and put DVC's cache there "
                              "(`dvc cache dir --local FOLDER`), or the whole checkout")
