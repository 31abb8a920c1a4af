"""Stage evaluate: scores models/gpt -> metrics/eval.json, metrics/hellaswag.jsonl.

    python -m pipeline.evaluate

With several GPUs, or `runtime.nproc` above 1, so many processes share the work.
"""

import os
import sys

from pipeline import ROOT, stage


def main() -> None:
    with stage("evaluate") as cfg:
        from reprogpt.data.hellaswag_file import check_hellaswag
        from reprogpt.launch.group import gpu_count, processes, run_group

        if cfg.evaluate.hellaswag_examples != 0:
            check_hellaswag(ROOT / "data/hellaswag/hellaswag_val.jsonl")
        count = processes(cfg.runtime)
        if cfg.runtime.launcher == "slurm":  # nproc is of other machines than this one
            count = min(count, max(1, gpu_count(cfg.runtime.device)))
        if count == 1 or "RENDEZVOUS_FILE" in os.environ:
            from reprogpt.evaluation.report import evaluate
            from reprogpt.runtime.distributed import leave, process_group

            with process_group(cfg.runtime.device, cfg.runtime.timeout) as process:
                evaluate(cfg.evaluate, process, cfg.runtime.eval_tokens, ROOT)
        elif run_group([sys.executable, "-m", "pipeline.evaluate"], ROOT / ".dvc/tmp/evaluate",
                       count):
            sys.exit(1)
    if count == 1 or "RENDEZVOUS_FILE" in os.environ:
        leave()


if __name__ == "__main__":
    main()
