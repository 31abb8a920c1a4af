"""The stage evaluate: everything a finished model is measured by, in one file of metrics."""

import json
from pathlib import Path
from typing import Any

from reprogpt.config import EvaluateConfig
from reprogpt.evaluation.arithmetic_accuracy import GROUPS, accuracy
from reprogpt.evaluation.hellaswag import answer, read_questions
from reprogpt.evaluation.published import CHANCE, nearest
from reprogpt.evaluation.scoring import tokens_at_once
from reprogpt.evaluation.text_files import score_files
from reprogpt.evaluation.validation import validation_loss
from reprogpt.formats.huggingface import load_model
from reprogpt.model.gpt import GPT
from reprogpt.runtime.distributed import Process
from reprogpt.storage.files import write_bytes, write_json
from reprogpt.tokens.manifest import read_manifest
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import Tokenizer, load_tokenizer


def evaluate(cfg: EvaluateConfig, process: Process, eval_tokens: int | str, root: Path
             ) -> dict[str, Any]:
    """Scores root/models/gpt, writes root/metrics/{eval.json,hellaswag.jsonl}.

    ``eval_tokens``: tokens through the model at a time, or "auto". Returns what eval.json holds.
    """
    model, model_cfg = load_model(root / "models/gpt", process.device)
    tokenizer = load_tokenizer(root / "models/gpt")
    _check_tokens(tokenizer, root)
    at_once = tokens_at_once(process.device, eval_tokens)
    # First what may be misspelt.
    held_out = score_files(model, cfg.suites.held_out, tokenizer, process, root, at_once)
    validation = validation_loss(
        model, TokenStream(root / "data/tokens", "val"), tokenizer.token_bytes(), process,
        val_tokens=cfg.val_tokens, block_size=model_cfg.block_size, at_once=at_once)
    result: dict[str, Any] = {
        "val_loss": round(validation.loss, 6),
        "val_perplexity": round(validation.perplexity, 4),
        "val_bits_per_byte": round(validation.bits_per_byte, 6),
        "val_tokens": validation.tokens,
    }
    corpus = str(read_manifest(root / "data/tokens").corpus["name"])
    if corpus in GROUPS and process.is_first:
        stream = TokenStream(root / "data/tokens", "val")
        result["task"] = accuracy(corpus, model, tokenizer, stream)
    if held_out:
        result["held_out"] = held_out
    parameters = model.num_parameters()
    result["hellaswag"], lines = _hellaswag(cfg, model, tokenizer, process, at_once, root)
    result["reference"] = {key: {"model": ref.name, **ref.scores}
                           for key, ref in nearest(parameters).items()}
    result["compared"] = _compared(result["hellaswag"].get("acc_norm"), parameters)
    if process.is_first:
        write_bytes(root / "metrics/hellaswag.jsonl", lines.encode())
        write_json(root / "metrics/eval.json", result)
    return result


def _check_tokens(tokenizer: Tokenizer, root: Path) -> None:
    """Raises ValueError when the tokens are not of the model's own tokenizer: a stage run by hand
    finds a model that was trained on others."""
    theirs = read_manifest(root / "data/tokens").tokenizer
    if tokenizer.fingerprint != theirs["fingerprint"]:
        raise ValueError(f"models/gpt: its tokenizer ({tokenizer.name}, {tokenizer.n_vocab} ids) "
                         f"is not that of data/tokens ({theirs['name']}, {theirs['n_vocab']} ids); "
                         "run `dvc repro`, which brings both up to date")


def _hellaswag(cfg: EvaluateConfig, model: GPT, tokenizer: Tokenizer, process: Process,
               at_once: int, root: Path) -> tuple[dict[str, Any], str]:
    """The summary, and the records of metrics/hellaswag.jsonl."""
    if cfg.hellaswag_examples == 0:
        return {"examples": 0}, ""
    if cfg.precision == "bfloat16":
        model = model.bfloat16()  # cast once; this is the model's last use
    questions = read_questions(root / "data/hellaswag/hellaswag_val.jsonl",
                               tokenizer, cfg.hellaswag_examples)
    answers = answer(model, questions, process, at_once, progress=process.is_first)
    lines = "".join(json.dumps(record) + "\n" for record in answers.lines())
    return answers.summary(), lines


def _compared(acc_norm: float | None, parameters: int) -> list[dict[str, Any]]:
    """What the plot draws: this model, if it was scored, between chance and the published ones."""
    rows = [("chance", CHANCE)]
    if acc_norm is not None:
        rows.append(("this model", acc_norm))
    rows += [(ref.name, ref.scores["acc_norm"]) for ref in nearest(parameters).values()]
    return [{"model": name, "acc_norm": score} for name, score in rows]
