"""Stage climb@RUNG: trains one of lecture 1's models, evaluates it, and samples from it.

    python -m ladder.climb head     -> ladder/models/head, ladder/metrics/head.{csv,json},
                                       ladder/samples/head.txt
"""

import sys
from functools import partial

from ladder.rungs import DVC_FILE, METRICS, MODELS, SAMPLES, TOKENS, params
from ladder.series import few_threads
from pipeline import ROOT, stage
from pipeline.checks.seal import Seal
from pipeline.train import train
from reprogpt.config import Config
from reprogpt.launch.run_dir import Paths


def main(rung: str) -> None:
    name = f"climb@{rung}"
    with stage(name, DVC_FILE, partial(params, rung)) as cfg:
        few_threads(cfg)
        paths = Paths(tokens=str(TOKENS), init=str(ROOT / "ladder/data/init"),
                      model=str(MODELS / rung), csv=str(METRICS / f"{rung}.csv"),
                      json=str(MODELS / f"{rung}.json"))
        train(cfg, paths, Seal.take(name, DVC_FILE).sources)
        measure(rung, cfg, paths)


def measure(rung: str, cfg: Config, paths: Paths) -> None:
    """Writes the trained model's metrics and a sample."""
    import json
    from pathlib import Path

    import reprogpt.model.lecture1.models  # noqa: F401 (a dep; model/registry.py imports by name)
    from reprogpt.evaluation.validation import validation_loss
    from reprogpt.formats.huggingface import load_model
    from reprogpt.generation.samples import write
    from reprogpt.runtime.distributed import process_group
    from reprogpt.storage.files import write_bytes, write_json
    from reprogpt.tokens.manifest import read_manifest
    from reprogpt.tokens.shards import TokenStream
    from reprogpt.tokens.tokenizers import load_tokenizer

    trained = json.loads(Path(paths.json).read_text())
    Path(paths.json).unlink()  # its figures go into metrics/RUNG.json
    with process_group(cfg.runtime.device, cfg.runtime.timeout) as process:
        model, model_cfg = load_model(Path(paths.model), process.device)
        tokenizer = load_tokenizer(Path(paths.model))
        found = validation_loss(model, TokenStream(TOKENS, "val"), tokenizer.token_bytes(), process,
                                val_tokens=cfg.evaluate.val_tokens,
                                block_size=model_cfg.block_size)
        text = write(model, tokenizer, cfg.sample, cfg.seed)[0][0]
    write_json(METRICS / f"{rung}.json", {
        "parameters": trained["parameters"],
        "flops_per_token": model.flops_per_token(model_cfg.block_size),
        "val_loss": round(found.loss, 4), "val_bits_per_byte": round(found.bits_per_byte, 4),
        "seconds": round(trained["seconds"], 1), "steps": trained["steps"],
        "tokens": trained["tokens"], "corpus": read_manifest(TOKENS).corpus["name"],
    })
    write_bytes(SAMPLES / f"{rung}.txt", text.encode())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")  # which params() refuses
