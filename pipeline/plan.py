"""What the run of params.yaml will take, before it is started. Changes nothing.

    python -m pipeline.plan [--preset NAME] [--measure] [--rate DOLLARS] [--json] [--short]

`make plan` is the same, with PRESET=NAME MEASURE=1 RATE=DOLLARS. docs/training.md says what the
estimates assume.
"""

import json
from pathlib import Path

from pipeline import PARAMS_FILE, load_params
from pipeline.cli import Parser, dollars, one_line
from pipeline.preset import values_of
from reprogpt.config import Config, read_yaml
from reprogpt.tokens.manifest import Manifest, read_manifest

TOKENS, LOCK = Path("data/tokens"), Path("dvc.lock")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--preset", help="plan this preset; params.yaml is not read")
    parser.add_argument("--measure", action="store_true", help="time a few steps on this machine")
    parser.add_argument("--rate", type=dollars, help="dollars an hour of one GPU, for prices")
    parser.add_argument("--json", action="store_true", help="all figures as JSON")
    parser.add_argument("--short", action="store_true", help="three lines, as make repro shows")
    options = parser.parse_args()
    cfg = (Config.parse(values_of(options.preset), source=f"presets/{options.preset}.yaml")
           if options.preset else load_params(PARAMS_FILE))
    from reprogpt.planning.plan import plan
    from reprogpt.planning.plan_text import page, summary

    found = plan(cfg, manifest_of(cfg), options.measure)
    print(json.dumps(found, indent=1) if options.json
          else "\n".join(summary(found)[:3]) if options.short else page(found, options.rate))


def manifest_of(cfg: Config) -> Manifest | None:
    """The manifest of data/tokens, where dvc.lock says that it was made with these params."""
    if not (TOKENS / "manifest.json").is_file() or not LOCK.is_file():
        return None
    lock = read_yaml(LOCK)
    for name, section in (("download", cfg.download), ("tokenize", cfg.tokenize)):
        try:
            made = lock["stages"][name]["params"][str(PARAMS_FILE)][name]
            if type(section).model_validate(made) != section:
                return None
        except (KeyError, TypeError, ValueError):  # made otherwise, by another version, or damaged
            return None
    return read_manifest(TOKENS)


if __name__ == "__main__":
    with one_line():
        main()
