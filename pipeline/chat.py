"""Chat at the terminal: type a prompt, read the model's continuation token by token.

    python -m pipeline.chat                  models/gpt, with the section `sample` of params.yaml
    python -m pipeline.chat --model DIR --temperature 0.7 --top-k 40 --tokens 200 --seed 1

With the corpora addition and calculator, problems may be written as 12+34.
"""

from pathlib import Path

from pipeline import PARAMS_FILE, ROOT, load_params
from pipeline.cli import Parser, one_line, options_named
from reprogpt.config import Config, TaskConfig, merge

OPTIONS = {  # option: (the param that it replaces, its type)
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
        parser.add_argument(option, dest=param, type=kind, help=f"replaces {param}")
    given = vars(parser.parse_args())
    values = load_params().model_dump()
    for param, value in given.items():
        if value is not None and param != "model":
            section, _, name = param.rpartition(".")
            values = merge(values, {section: {name: value}} if section else {name: value})
    with options_named({param: option for option, (param, _) in OPTIONS.items()
                        if given[param] is not None}):
        cfg = Config.parse(values, source=str(PARAMS_FILE))
        from reprogpt.generation.chat import converse

        corpus, task = cfg.download.corpus, cfg.download.task or TaskConfig()
        converse(given["model"], cfg.sample, cfg.seed, cfg.runtime.device,
                 task=(corpus, task) if corpus in ("addition", "calculator") else None)


if __name__ == "__main__":
    with one_line():
        main()
