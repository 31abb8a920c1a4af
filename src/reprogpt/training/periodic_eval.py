"""HellaSwag scores and samples during training, every so many steps.

The files of metrics/ are rebuilt from the run's records; a resume from step k drops later ones.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reprogpt.config import SampleConfig, TrainConfig
from reprogpt.evaluation.hellaswag import read_questions, score_questions
from reprogpt.evaluation.published import nearest
from reprogpt.generation.samples import blocks, encode_prompts, read_prompts, write
from reprogpt.model.gpt import GPT
from reprogpt.runtime.distributed import Process
from reprogpt.storage.files import write_bytes
from reprogpt.tokens.tokenizers import Tokenizer

SCORES = ("acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm")


class Probes:
    """``probes(step, model)`` measures what is due after ``step`` updates. A collective.

    ``at_once``: tokens in one forward pass. ``step``: where training starts or resumes. ``run``,
    ``metrics``: folders. Raises ValueError for prompts that the tokenizer cannot encode.
    """

    def __init__(self, train: TrainConfig, sample: SampleConfig, seed: int, tokenizer: Tokenizer,
                 process: Process, *, at_once: int, step: int, run: Path, metrics: str,
                 hellaswag_file: Path) -> None:
        self.train, self.sample, self.seed = train, sample, seed
        self.tokenizer, self.process, self.at_once = tokenizer, process, at_once
        self.metrics, self._file = metrics, run / "probes.jsonl"
        self._records: list[dict[str, Any]] = []
        if process.is_first:
            self._records = [r for r in _read(self._file) if r["step"] <= step]
            self._save()  # DVC removed the files before the stage started
        if train.sample_interval is not None:
            encode_prompts(sample, tokenizer)
        self._questions = None if train.hellaswag_interval is None else read_questions(
            hellaswag_file, tokenizer, train.hellaswag_examples)

    def __call__(self, step: int, model: GPT) -> None:
        record: dict[str, Any] = {"step": step}
        if self._questions is not None and _due(step, self.train.hellaswag_interval):
            record["hellaswag"] = score_questions(model, self._questions, self.process,
                                         self.at_once).summary()
            record["parameters"] = model.num_parameters()
        if _due(step, self.train.sample_interval) and self.process.is_first:
            record["prompts"] = read_prompts(self.sample)
            record["samples"] = write(model, self.tokenizer, self.sample, self.seed)
        if len(record) > 1 and self.process.is_first:
            self._records = [r for r in self._records if r["step"] < step] + [record]
            self._save()

    def _save(self) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in self._records)
        write_bytes(self._file, lines.encode())
        if not self.metrics:
            return
        write_bytes(Path(self.metrics, "train_hellaswag.csv"), _csv(self._records).encode())
        page = _page(self._records, self.seed)
        if self.train.sample_interval is None:
            page += "\nNone were asked for: see `train.sample_interval`.\n"
        write_bytes(Path(self.metrics, "train_samples.md"), page.encode())

    def due(self, step: int) -> bool:
        """Whether anything is to be measured after ``step`` updates."""
        return _due(step, self.train.hellaswag_interval) or _due(step, self.train.sample_interval)


def _read(file: Path) -> list[dict[str, Any]]:
    """The records of a file, up to a damaged one; then the file is renamed with a message."""
    records: list[dict[str, Any]] = []
    lines = file.read_bytes().splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:  # no JSON, or no text
            record = None
        if not (isinstance(record, dict) and isinstance(record.get("step"), int)):
            spoiled = file.with_suffix(".spoiled")
            file.replace(spoiled)
            print(f"{file}: line {number} is damaged; set aside as {spoiled.name}, keeping the "
                  "lines before it", file=sys.stderr, flush=True)
            break
        records.append(record)
    return records


def _due(step: int, interval: int | None) -> bool:
    return interval is not None and step % interval == 0


def _csv(records: Sequence[dict[str, Any]]) -> str:
    """Scores by step; the published figures are constant columns, which a plot draws as lines."""
    rows = [",".join(("step", *SCORES, "gpt2_acc_norm", "gpt3_acc_norm"))]
    for record in (r for r in records if "hellaswag" in r):
        published = [ref.scores["acc_norm"] for ref in nearest(record["parameters"]).values()]
        values = [record["step"], *(record["hellaswag"][name] for name in SCORES), *published]
        rows.append(",".join(f"{value:g}" for value in values))
    return "\n".join(rows) + "\n"


def _page(records: Sequence[dict[str, Any]], seed: int) -> str:
    """The samples of every step as Markdown, the newest last."""
    parts = ["# Samples during training"]
    for record in (r for r in records if "samples" in r):
        parts.append(f"## Step {record['step']}")
        for prompt, texts in zip(record["prompts"], record["samples"], strict=True):
            parts += blocks(prompt, texts, seed)
    return "\n\n".join(parts) + "\n"
