"""Try prompts by hand: type one, watch the model go on, token by token.

    python -m pipeline.chat                          models/gpt, with params.yaml's section sample
    python -m pipeline.chat --model DIR --temperature 0.7 --top-k 40 --tokens 200 --seed 1
"""

import argparse
import sys
from pathlib import Path

from pipeline import ROOT, load_params


def main() -> None:
    from reprogpt.chat import converse
    from reprogpt.config import ConfigError, SampleConfig

    try:
        cfg = load_params()
        sample = cfg.sample.model_dump()
        parser = argparse.ArgumentParser(prog="python -m pipeline.chat", description=__doc__,
                                         formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--model", type=Path, default=ROOT / "models/gpt")
        parser.add_argument("--device", default=cfg.runtime.device)
        parser.add_argument("--seed", type=int, default=cfg.seed)
        for flag, key, kind in (("temperature", "temperature", float), ("top-k", "top_k", int),
                                ("top-p", "top_p", float), ("tokens", "max_new_tokens", int),
                                ("repetition-penalty", "repetition_penalty", float)):
            parser.add_argument(f"--{flag}", dest=key, type=kind, default=sample[key])
        options = vars(parser.parse_args())
        model, device, seed = (options.pop(key) for key in ("model", "device", "seed"))
        converse(model, SampleConfig.model_validate({**sample, **options}), seed, device)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
