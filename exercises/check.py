"""Judges exercises: says in plain words what is wrong with them.

    python -m exercises.check 3        # by number or by name (head); all: every one

Exit code 0 only if what was asked for is right.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

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
    try:
        JUDGES[name](module or importlib.import_module(f"exercises.{name}"))
    except Wrong as wrong:
        return str(wrong)
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno} of exercises/{name}.py)"
    except Exception as error:
        return _raised(error, name, getattr(module, "__file__", f"exercises/{name}.py"))
    return None


def _raised(error: Exception, name: str, file: Any) -> str:
    """What an exception in the learner's code says, and where it was raised."""
    step, own = error.__traceback__, None
    while step is not None:
        if step.tb_frame.f_code.co_filename.endswith(str(file)):
            own = step
        step = step.tb_next
    if own is None:  # it did not come so far: the function is not there, or takes other arguments
        return f"{type(error).__name__}: {error}"
    function = own.tb_frame.f_code.co_qualname.partition(".<locals>")[0]
    if isinstance(error, NotImplementedError):
        return f"{function} is not written yet; its docstring in exercises/{name}.py has the task"
    return (f"{function} raises {type(error).__name__}: {str(error).partition(chr(10))[0]} "
            f"(line {own.tb_lineno} of exercises/{name}.py)")


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) == 2 else ""
    names = list(JUDGES)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        chosen = [names[int(wanted) - 1]]
    elif wanted in names or wanted == "all":
        chosen = names if wanted == "all" else [wanted]
    else:
        stop(f"N={wanted or '(nothing)'}: must be a number from 1 to {len(names)}, `all`, or a "
             f"name: {', '.join(names)}; such as make exercise N=1", 2)
    wrong = 0
    for name in chosen:
        message = verdict(name)
        wrong += message is not None
        print(f"{names.index(name) + 1:2} {name}: {'right' if message is None else message}")
    if wanted == "all":
        print(f"{len(names) - wrong} of {len(names)} are right")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    with one_line():
        main()
