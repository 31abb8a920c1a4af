"""The stage evaluate: scores models/gpt and writes eval.json, hellaswag.jsonl and summary.json."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reprogpt.config import EvaluateConfig
from reprogpt.evaluation.arithmetic_accuracy import GROUPS, accuracy
from reprogpt.evaluation.hellaswag import Scores, read_questions, score_questions
from reprogpt.evaluation.published import CHANCE, nearest
from reprogpt.evaluation.reference_band import Band
from reprogpt.evaluation.scoring import tokens_at_once
from reprogpt.evaluation.text_files import score_files
from reprogpt.evaluation.validation import Validation, mixture_loss
from reprogpt.formats.huggingface import load_model
from reprogpt.runtime.distributed import Process
from reprogpt.storage.files import write_bytes, write_json
from reprogpt.tokens.full_check import FullCheck
from reprogpt.tokens.shards import open_split
from reprogpt.tokens.tokenizers import Tokenizer, load_tokenizer


def evaluate(cfg: EvaluateConfig, process: Process, eval_tokens: int | str, root: Path
             ) -> dict[str, Any]:
    """Scores root/models/gpt, writes root/metrics/{eval.json,hellaswag.jsonl,summary.json}, and
    returns what eval.json holds. ``eval_tokens``: runtime.eval_tokens.
    """
    model, model_cfg = load_model(root / "models/gpt", process.device)
    tokenizer = load_tokenizer(root / "models/gpt")
    streams = open_split(root / "data/tokens", "val")
    stream = next(iter(streams.values()))
    full_check = FullCheck(process, *streams.values())
    _check_tokenizer(tokenizer, stream.manifest.tokenizer)
    at_once = tokens_at_once(process.device, eval_tokens)
    # These first: their names may be misspelt.
    held_out = score_files(model, cfg.suites.held_out, tokenizer, process, root, at_once)
    tasks = {}
    if cfg.suites.tasks:
        from reprogpt.evaluation.tasks import run_tasks

        tasks = run_tasks(cfg.suites, model, tokenizer, process, root, at_once)
    file = root / "metrics/train.json"
    trained = json.loads(file.read_text()) if file.exists() else {}
    whole, parts = mixture_loss(
        model, streams, shares_of(trained, list(streams)), tokenizer.token_bytes(), process,
        at_once=at_once, val_tokens=cfg.val_tokens, block_size=model_cfg.block_size)
    result = _losses(whole)
    if stream.manifest.mix:
        result["mix"] = {name: _losses(part) for name, part in parts.items()}
    corpus = str(stream.manifest.corpus["name"])
    if corpus in GROUPS and process.is_first:
        result["task"] = accuracy(corpus, model, tokenizer, stream)
    # A row in any case: DVC warns of a plot whose fields are absent.
    result["solved"] = result.get("task", {}).pop("solved", [{"kind": "no problems", "solved": 0}])
    if held_out:
        result["held_out"] = held_out
    if tasks:
        result["tasks"] = tasks
    scores = None
    if cfg.hellaswag_examples != 0:
        if cfg.precision == "bfloat16":
            model = model.bfloat16()  # the model is not used after this
        questions = read_questions(root / "data/hellaswag/hellaswag_val.jsonl", tokenizer,
                                   cfg.hellaswag_examples)
        scores = score_questions(model, questions, process, at_once, progress=process.is_first)
    result |= _hellaswag(scores, model.num_parameters())
    records = list(scores.lines()) if scores else []
    if name := trained.get("reference"):
        band = Band.read(root / f"presets/reference/{name}.yaml")
        result["band"] = {"name": name, **band.verdicts(result)}
        if process.is_first:
            print("reference band", ", ".join(f"{k} {v}" for k, v in result["band"].items()),
                  file=sys.stderr)
    check_finite("eval.json", result)
    check_finite("hellaswag.jsonl", records)
    full_check.require_good()
    if process.is_first:
        # A blank line if nothing was asked: DVC warns of an empty file.
        lines = "".join(json.dumps(record) + "\n" for record in records) or "\n"
        write_bytes(root / "metrics/hellaswag.jsonl", lines.encode())
        write_json(root / "metrics/eval.json", result)
        write_json(root / "metrics/summary.json", summary(result, trained))
    return result


def summary(result: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, float]:
    """The figures by which DVC compares runs, with names short enough for one table; those that the
    run has. ``result`` and ``trained``: the contents of eval.json and train.json."""
    speed = trained.get("tokens_per_second")
    figures = {
        "val_loss": result["val_loss"],
        "bpb": result["val_bits_per_byte"],
        "acc_norm": result["hellaswag"].get("acc_norm"),
        "accuracy": result.get("task", {}).get("accuracy"),
        "tok_s": speed and round(speed),
    }
    return {name: value for name, value in figures.items() if value is not None}


def shares_of(trained: Mapping[str, Any], corpora: list[str]) -> dict[str, float]:
    """The shares of a mixture as train.json records them; empty for one corpus. Raises ValueError
    when the model was trained on other corpora."""
    shares = {name: part["share"] for name, part in trained.get("mix", {}).items()}
    if list(shares) != [name for name in corpora if name]:
        raise ValueError(f"metrics/train.json: its model was trained on the mixture "
                         f"{list(shares)}, and data/tokens has {corpora}; run `dvc repro`, which "
                         "brings both up to date")
    return shares


def _losses(found: Validation) -> dict[str, Any]:
    perplexity = math.exp(min(found.loss, 700.0))  # larger values overflow a double
    return {"val_loss": round(found.loss, 6), "val_perplexity": round(perplexity, 4),
            "val_bits_per_byte": round(found.bits_per_byte, 6), "val_tokens": found.tokens}


def _check_tokenizer(tokenizer: Tokenizer, other: dict[str, Any]) -> None:
    """Raises ValueError when the model and data/tokens have different tokenizers, as after running
    one stage by hand."""
    if tokenizer.fingerprint != other["fingerprint"]:
        raise ValueError(f"models/gpt: its tokenizer ({tokenizer.name}, {tokenizer.n_vocab} ids) "
                         f"is not that of data/tokens ({other['name']}, {other['n_vocab']} ids); "
                         "run `dvc repro`, which brings both up to date")


def check_finite(key: str, value: Any) -> None:
    """Raises ValueError naming a score in ``value`` that is nan or infinite: not in JSON."""
    if isinstance(value, dict):
        for name, inner in value.items():
            check_finite(f"{key}: {name}", inner)
    elif isinstance(value, list):
        for inner in value:
            check_finite(key, inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"models/gpt: its scores are not finite ({key} is {value}); train it "
                         "again with a lower train.lr")


def _hellaswag(scores: Scores | None, parameters: int) -> dict[str, Any]:
    """HellaSwag's entries of eval.json: scores, published scores, and the rows of the plot."""
    references = nearest(parameters)
    summary = scores.summary() if scores else {"examples": 0}
    rows = {"chance": CHANCE}
    if scores:
        rows["this model"] = summary["acc_norm"]
    rows |= {ref.name: ref.scores["acc_norm"] for ref in references.values()}
    return {
        "hellaswag": summary,
        "reference": {key: {"model": ref.name, **ref.scores} for key, ref in references.items()},
        "compared": [{"model": name, "acc_norm": score} for name, score in rows.items()],
    }
