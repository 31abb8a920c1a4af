"""HellaSwag scores and samples during training, every so many steps.

The records are part of the checkpoint, and the files of metrics/ are rebuilt from them on resume.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reprogpt.evaluation.hellaswag import read_questions, score_questions
from reprogpt.evaluation.published import METRICS, nearest
from reprogpt.generation.samples import blocks, encode_prompts, read_prompts, write
from reprogpt.launch.run_dir import RunDir
from reprogpt.model.gpt import GPT
from reprogpt.runtime.distributed import Process
from reprogpt.storage.files import write_bytes
from reprogpt.tokens.tokenizers import Tokenizer


class Probes:
    """``probes(step, model)`` measures what is due after ``step`` updates. A collective."""

    def __init__(self, run: RunDir, tokenizer: Tokenizer, process: Process, at_once: int,
                 records: list[dict[str, Any]]) -> None:
        """``at_once``: tokens in one forward pass. ``records``: those so far, which a checkpoint
        holds. Raises ValueError for prompts that the tokenizer cannot encode."""
        self.train, self.sample, self.seed = run.config.train, run.config.sample, run.config.seed
        self.folder, self.records = run.paths.probes, records
        self.tokenizer, self.process, self.at_once = tokenizer, process, at_once
        if process.is_first:
            self._write()  # DVC removed the files before the stage started
        if self.train.sample_interval is not None:
            encode_prompts(self.sample, tokenizer)
        self._questions = None if self.train.hellaswag_interval is None else read_questions(
            Path(run.paths.hellaswag), tokenizer, self.train.hellaswag_examples)

    def due(self, step: int) -> bool:
        """Whether anything is to be measured after ``step`` updates."""
        return _due(step, self.train.hellaswag_interval) or _due(step, self.train.sample_interval)

    def __call__(self, step: int, model: GPT) -> None:
        record: dict[str, Any] = {"step": step}
        if self._questions is not None and _due(step, self.train.hellaswag_interval):
            scores = score_questions(model, self._questions, self.process, self.at_once)
            record |= {"hellaswag": scores.summary(), "parameters": model.num_parameters()}
        if _due(step, self.train.sample_interval) and self.process.is_first:
            record |= {"prompts": read_prompts(self.sample),
                       "samples": write(model, self.tokenizer, self.sample, self.seed)}
        if self.process.is_first:
            self.records.append(record)
            self._write()

    def _write(self) -> None:
        if not self.folder:
            return
        write_bytes(Path(self.folder, "train_hellaswag.csv"), _csv(self.records).encode())
        page = _page(self.records, self.seed)
        if self.train.sample_interval is None:
            page += "\nNone were asked for: see `train.sample_interval`.\n"
        write_bytes(Path(self.folder, "train_samples.md"), page.encode())


def _due(step: int, interval: int | None) -> bool:
    return interval is not None and step % interval == 0


def _csv(records: Sequence[dict[str, Any]]) -> str:
    """Scores by step; the published figures are constant columns, which a plot draws as lines."""
    rows = [",".join(("step", *METRICS, "gpt2_acc_norm", "gpt3_acc_norm"))]
    for record in (r for r in records if "hellaswag" in r):
        published = [ref.scores["acc_norm"] for ref in nearest(record["parameters"]).values()]
        values = [record["step"], *(record["hellaswag"][name] for name in METRICS), *published]
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
