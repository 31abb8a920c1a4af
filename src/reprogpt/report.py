"""The stage evaluate: everything a finished model is measured by, in one file of metrics."""

import json
from pathlib import Path
from typing import Any

from reprogpt.config import EvaluateConfig
from reprogpt.evals import validation_loss
from reprogpt.files import write_bytes, write_json
from reprogpt.hellaswag import answer, read_questions
from reprogpt.hf import load_model
from reprogpt.runtime import Process
from reprogpt.scoring import EVAL_TOKENS
from reprogpt.shards import TokenStream
from reprogpt.tokenizers import load_tokenizer


def evaluate(cfg: EvaluateConfig, process: Process, eval_tokens: int | str, root: Path
             ) -> dict[str, Any]:
    """The stage evaluate: scores root/models/gpt, writes root/metrics/{eval.json,hellaswag.jsonl}.

    ``eval_tokens``: tokens through the model at a time, or "auto". Returns what eval.json holds.
    """
    model_dir = root / "models/gpt"
    model, model_cfg = load_model(model_dir, process.device)
    tokenizer = load_tokenizer(model_dir)
    tokens = EVAL_TOKENS if isinstance(eval_tokens, str) else eval_tokens
    validation = validation_loss(
        model, TokenStream(root / "data/tokens", "val"), tokenizer.token_bytes(), process,
        val_tokens=cfg.val_tokens, block_size=model_cfg.block_size,
        batch_rows=max(1, tokens // model_cfg.block_size))
    questions = []
    if cfg.hellaswag_examples != 0:
        file = root / "data/hellaswag/hellaswag_val.jsonl"
        questions = read_questions(file, tokenizer, cfg.hellaswag_examples)
    if cfg.precision == "bfloat16":
        model = model.bfloat16()  # cast once, after the loss: that one is always float32
    answers = answer(model, questions, process, tokens, progress=process.is_first)
    result = {
        "val_loss": round(validation.loss, 6),
        "val_perplexity": round(validation.perplexity, 4),
        "val_bits_per_byte": round(validation.bits_per_byte, 6),
        "val_tokens": validation.tokens,
        "hellaswag": answers.summary(),
    }
    if process.is_first:
        lines = "".join(json.dumps(record) + "\n" for record in answers.lines())
        write_bytes(root / "metrics/hellaswag.jsonl", lines.encode())
        write_json(root / "metrics/eval.json", result)
    return result
