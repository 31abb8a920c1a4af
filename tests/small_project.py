"""A project after the stage train, for tests of evaluation and sampling: a small character model,
its validation split and six HellaSwag questions."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reprogpt.config import EvaluateConfig
from reprogpt.formats import huggingface as hf
from reprogpt.runtime.distributed import Process
from reprogpt.tokens.manifest import Manifest, Totals, write_manifest
from reprogpt.tokens.tokenizers import CharTokenizer
from tests.shard_writer import ShardWriter
from tests.small_models import random_model

ALONE = Process(0, 1, torch.device("cpu"))
LETTERS = "".join(map(chr, range(32, 127))) + "\n"
TOKENIZER = CharTokenizer(LETTERS.replace("~", ""))
TEXT = "It was the best of times, it was the worst of times. " * 4
EXAMPLE = {
    "ind": 4, "activity_label": "Home and Garden", "label": 3, "source_id": "wikihow~1",
    "split": "val", "split_type": "indomain",
    "ctx_a": "[header] How to dry flowers [title] Pick them. [step] Go out.",
    "ctx_b": "you", "ctx": "[header] How to dry flowers [title] Pick them. [step] Go out. you",
    "endings": ["take  a knife. [substeps] Cut.", "sit [title] down.", " wait.", "go home."],
}


def trained_project(root: Path) -> Path:
    """Writes data/tokens, data/hellaswag and models/gpt into ``root`` and returns it."""
    TOKENIZER.save(root / "data/tokens/tokenizer")
    writer = ShardWriter(root / "data/tokens", "val", 10**6)
    writer.document()
    writer.write(TOKENIZER.encode(TEXT))
    write_manifest(root / "data/tokens", Manifest(
        tuple(writer.close()), {"val": Totals(1, len(TEXT), len(TEXT))},
        {"name": "char", "n_vocab": TOKENIZER.n_vocab, "fingerprint": TOKENIZER.fingerprint},
        {"name": "x", "revision": "0"}))
    (root / "data/hellaswag").mkdir()
    rows = [EXAMPLE | {"label": i % 4, "ctx": f"~{EXAMPLE['ctx']} {i}"} for i in range(6)]
    (root / "data/hellaswag/hellaswag_val.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows))
    model = random_model(TOKENIZER.n_vocab, block_size=32, scale=0.3)
    hf.save_model(root / "models/gpt", model, model.cfg, root / "data/tokens/tokenizer")
    return root


class _Rank(Process):
    """A rank whose collectives meet those of the other ranks, which are threads, at a barrier."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.parts[self.rank] = values.clone()
        self.barrier.wait()
        values.copy_(sum(self.parts.values()))
        self.barrier.wait()
        return values

    def first_of(self, value: Any) -> Any:
        self.parts[self.rank] = value
        self.barrier.wait()
        found = next((v for _, v in sorted(self.parts.items()) if v is not None), None)
        self.barrier.wait()
        return found


def evaluating(**changes: Any) -> EvaluateConfig:
    return EvaluateConfig(**{"val_tokens": None, "hellaswag_examples": 4, **changes})


def on_ranks(world_size: int, work: Callable[[Process], Any]) -> list[Any]:
    """What ``work(process)`` returns on each rank of a group."""
    parts: dict[int, Any] = {}
    barrier, results = threading.Barrier(world_size), {}
    threads = []
    for rank in range(world_size):
        process = _Rank(rank, world_size, torch.device("cpu"))
        object.__setattr__(process, "parts", parts)
        object.__setattr__(process, "barrier", barrier)
        threads.append(threading.Thread(
            target=lambda p=process: results.update({p.rank: work(p)})))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(world_size)]
