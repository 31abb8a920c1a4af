"""Try prompts by hand: type one, watch the model go on, token by token.

    python -m pipeline.chat                          models/gpt, with params.yaml's section sample
    python -m pipeline.chat --model DIR --temperature 0.7 --top-k 40 --tokens 200 --seed 1
"""

from pathlib import Path

from pipeline import PARAMS_FILE, ROOT, load_params
from pipeline.cli import Parser, one_line, options_named
from reprogpt.config import Config
from reprogpt.config.yaml_file import merge

OPTIONS = {  # option: (the param in whose place it stands, its type)
    "--device": ("runtime.device", str),
    "--seed": ("seed", int),
    "--temperature": ("sample.temperature", float),
    "--top-k": ("sample.top_k", int),
    "--top-p": ("sample.top_p", float),
    "--tokens": ("sample.max_new_tokens", int),
    "--repetition-penalty": ("sample.repetition_penalty", float),
}


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models/gpt")
    for option, (param, kind) in OPTIONS.items():
        parser.add_argument(option, dest=param, type=kind, help=f"in place of {param}")
    given = vars(parser.parse_args())
    model = given.pop("model")
    given = {param: value for param, value in given.items() if value is not None}
    values = load_params().model_dump()
    values["sample"]["num_samples"] = 1  # at a time: there is room for any number of tokens
    for param, value in given.items():
        section, _, name = param.rpartition(".")
        values = merge(values, {section: {name: value}} if section else {name: value})
    with options_named({param: option for option, (param, _) in OPTIONS.items()
                        if param in given}):
        cfg = Config.parse(values, source=str(PARAMS_FILE))
        from reprogpt.generation.chat import converse

        converse(model, cfg.sample, cfg.seed, cfg.runtime.device)


if __name__ == "__main__":
    with one_line():
        main()
