"""Stage evaluate: scores models/gpt -> metrics/eval.json, metrics/hellaswag.jsonl.

    python -m pipeline.evaluate
    torchrun --nproc-per-node 8 -m pipeline.evaluate      # splits the questions among GPUs
"""

from pipeline import ROOT, stage


def main() -> None:
    with stage("evaluate") as cfg:
        from reprogpt.data.hellaswag_file import check_hellaswag
        from reprogpt.evaluation.report import evaluate
        from reprogpt.runtime.distributed import leave, process_group

        if cfg.evaluate.hellaswag_examples != 0:
            check_hellaswag(ROOT / "data/hellaswag/hellaswag_val.jsonl")
        with process_group(cfg.runtime.device, cfg.runtime.timeout) as process:
            evaluate(cfg.evaluate, process, cfg.runtime.eval_tokens, ROOT)
    leave()


if __name__ == "__main__":
    main()
