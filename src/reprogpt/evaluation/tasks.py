"""Tasks of lm-evaluation-harness on this project's scorer: evaluate.suites.tasks.

The harness (package lm_eval, the optional extra `tasks`) reads data, words prompts and aggregates;
the log-likelihoods that it asks a model for come from prefix_trees.py.
"""

import difflib
import os
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

from reprogpt.config import SuitesConfig
from reprogpt.errors import ConfigError
from reprogpt.evaluation.prefix_trees import score_pairs
from reprogpt.model.gpt import GPT
from reprogpt.runtime.distributed import Process
from reprogpt.storage.paths import local_path
from reprogpt.tokens.tokenizers import CharTokenizer, Tokenizer

KEY = "params.yaml: evaluate.suites.tasks"
NO_TEXT = KEY + ": {} has the model write text, which only lm_eval itself scores; remove it"
BOOTSTRAPS = 1000
"""Resamples for the standard error of a perplexity: 2% noise. lm_eval's 100,000 take minutes."""


def check_tasks(suites: SuitesConfig, root: Path) -> Any:
    """lm_eval's TaskManager. Raises ConfigError where it does not know a task, or is absent."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise ConfigError(f"{KEY} needs lm-evaluation-harness, which is not installed: pip install "
                          "-c constraints.txt -e '.[tasks]', or remove it") from None
    if suites.task_files is not None and not local_path(suites.task_files, root).is_dir():
        raise ConfigError(f"params.yaml: evaluate.suites.task_files={suites.task_files} must be a "
                          "folder, and there is none; correct the path")
    manager = TaskManager()
    for name in suites.tasks:
        if name not in manager.all_tasks:
            close = difflib.get_close_matches(name, manager.all_tasks, 1, 0.5)
            raise ConfigError(f"{KEY}: {name!r} is no task of lm-evaluation-harness; " + (
                f"did you mean {close[0]}?" if close else "`lm_eval ls tasks` lists them"))
        if (manager.task_index[name].cfg or {}).get("output_type") == "generate_until":
            raise ConfigError(NO_TEXT.format(name))
    return manager


def run_tasks(suites: SuitesConfig, model: GPT, tokenizer: Tokenizer, process: Process,
              root: Path, at_once: int | None = None) -> dict[str, dict[str, Any]]:
    """For each task and group: lm_eval's metrics with their standard errors and ``examples``; for
    a task ``truncated``, the examples with a row longer than block_size, cut on the left.

    Scores are the same on each process; those that are not the first of a machine return {}.
    """
    manager = check_tasks(suites, root)
    import datasets
    from lm_eval.evaluator import simple_evaluate

    scorer = _scorer(model, tokenizer, process, at_once)
    os.environ["DISABLE_MULTIPROC"] = "1"  # lm_eval's: no forks beside torch's threads
    with patch.object(datasets, "load_dataset", _reader(suites, root)):
        found = simple_evaluate(scorer, tasks=suites.tasks, task_manager=manager,
                                bootstrap_iters=BOOTSTRAPS, log_samples=False) or {"results": {}}
    rows = Counter(task for task, _ in scorer.truncated)
    return {name: {"examples": scores["sample_len"],
                   **({"truncated": rows[name]} if name in found["n-samples"] else {}),
                   **{key.removesuffix(",none"): round(float(value), 6)
                      for key, value in scores.items() if "," in key and value != "N/A"}}
            for name, scores in found["results"].items() if "sample_len" in scores}


def _reader(suites: SuitesConfig, root: Path) -> Callable[..., Any]:
    """datasets.load_dataset, but from task_files/owner/name or task_files/owner/name/configuration
    where there is such a folder."""
    import datasets

    of_the_hub = datasets.load_dataset

    class Splits(datasets.DatasetDict):
        """The splits of one data set, which tells what it lacks."""

        def __missing__(self, split: str) -> Any:
            raise ConfigError(f"{KEY}: a data set has no split {split}, only {', '.join(self)}; "
                              f"add the file {split}.jsonl or the like")

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        source, configuration = path, name
        if suites.task_files and (here := local_path(suites.task_files, root) / path).is_dir():
            source = str(here)
            if name and (here / name).is_dir():
                source, configuration = str(here / name), None
        try:
            found = of_the_hub(source, configuration, **options)
        except Exception as error:  # of many kinds, all of which end the evaluation
            raise ConfigError(
                f"{KEY}: data set {path}: cannot be read ({' '.join(str(error).split())}); where "
                f"there is a network: hf download --repo-type dataset {path} --local-dir FOLDER/"
                f"{path}, then here evaluate.suites.task_files: FOLDER") from None
        return Splits(found) if isinstance(found, datasets.DatasetDict) else found

    return load_dataset


def _scorer(model: GPT, tokenizer: Tokenizer, process: Process, at_once: int | None) -> Any:
    """The model as lm_eval asks it; ``truncated`` has the (task, example) that did not fit."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    if isinstance(tokenizer, CharTokenizer):
        tokenizer = CharTokenizer(tokenizer.characters, unknown="drop")
    block_size = model.cfg.block_size

    class Scorer(TemplateLM):
        """TemplateLM splits text into the tokens of context and ending."""

        truncated: set[tuple[str, int]] = set()  # noqa: RUF012 (of this one scorer)

        @property
        def eot_token_id(self) -> int:
            if tokenizer.eot is None:
                raise ConfigError(f"{KEY}: one of them scores text from its first token on, and a "
                                  "character model has no <|endoftext|> to begin with; remove it")
            return tokenizer.eot

        def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
            return tokenizer.encode(string).tolist()

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            self.asked = [(r.task_name, r.doc_id) for r in requests]
            return super().loglikelihood(requests, disable_tqdm)

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            pairs = [pair for _, *pair in requests]
            self.truncated.update(asked for asked, pair in zip(self.asked, pairs, strict=True)
                                  if sum(map(len, pair)) > block_size + 1)
            return score_pairs(model, pairs, process, at_once)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
            windows = [[make_disjoint_window(window) for window in get_rolling_token_windows(
                self.tok_encode(*r.args), self.prefix_token_id, block_size, 1)] for r in requests]
            scores = iter(score_pairs(model, list(chain(*windows)), process, at_once))
            return [sum(next(scores)[0] for _ in found) for found in windows]

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
            raise ConfigError(NO_TEXT.format(requests[0].task_name))

    return Scorer()
