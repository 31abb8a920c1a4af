"""Judges exercises: says in plain words what is wrong with them.

    python -m exercises.check 3        # by number or by name (head); all: every one

Exit code 0 only if what was asked for is right.
"""

import importlib
import sys
import traceback
from types import ModuleType

from pipeline.cli import one_line, require, stop

require("torch", "tiktoken", "transformers")
from exercises.judges import further, lecture1, lecture2  # noqa: E402
from exercises.judges.compare import Wrong  # noqa: E402

JUDGES = {
    "averaging": lecture1.judge_averaging, "bigram": lecture1.judge_bigram,
    "head": lecture1.judge_head, "heads": lecture1.judge_heads,
    "addition": lecture1.judge_addition, "load_gpt2": lecture2.judge_load_gpt2,
    "init": lecture2.judge_init, "schedule": lecture2.judge_schedule,
    "decay_groups": lecture2.judge_decay_groups, "accumulation": lecture2.judge_accumulation,
    "ddp": lecture2.judge_ddp, "sampling": further.judge_sampling,
    "hellaswag": lecture2.judge_hellaswag, "adamw": further.judge_adamw,
    "bpe": further.judge_bpe, "kv_cache": further.judge_kv_cache,
}
"""The exercises in the order of their numbers, from 1."""


def verdict(name: str, module: ModuleType | None = None) -> str | None:
    """What is wrong with exercise ``name``, in a sentence; None if nothing is.

    ``module``: the learner's, exercises/NAME.py by default.
    """
    file = f"exercises/{name}.py"
    try:
        JUDGES[name](module or importlib.import_module(f"exercises.{name}"))
    except Wrong as wrong:
        return str(wrong)
    except Exception as error:
        frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)
                  if frame.f_code.co_filename.endswith(file)]
        if not frames:  # the file has no such function, or it takes other arguments
            return f"{type(error).__name__}: {error}"
        code, line = frames[-1]
        function = code.co_qualname.partition(".<locals>")[0]
        if isinstance(error, NotImplementedError):
            return f"{function} is not written yet; its docstring in {file} has the task"
        return (f"{function} raises {type(error).__name__}: {str(error).partition(chr(10))[0]} "
                f"(line {line} of {file})")
    return None


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) == 2 else ""
    names = dict(enumerate(JUDGES, 1))
    chosen = [n for n, name in names.items() if wanted in ("all", name, str(n))]
    if not chosen:
        stop(f"N={wanted} must be a number from 1 to {len(names)}, `all`, or one of "
             f"{', '.join(JUDGES)}; such as make exercise N=1", 2)
    wrong = 0
    for n in chosen:
        message = verdict(names[n])
        wrong += message is not None
        print(f"{n:2} {names[n]}: {message or 'right'}", flush=True)
    if wanted == "all":
        print(f"{len(names) - wrong} of {len(names)} are right")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    with one_line():
        main()
