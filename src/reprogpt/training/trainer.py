"""Training: build -> restore -> step loop -> save. One process of a torchrun group runs this.

    python -m reprogpt.training.trainer RUN_DIR

Everything that decides the weights is in RUN_DIR/run.json, the shards and the newest checkpoint.
"""

import math
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from reprogpt.errors import unwritable
from reprogpt.evaluation.scoring import tokens_at_once
from reprogpt.evaluation.validation import validation_loss
from reprogpt.formats import huggingface as hf
from reprogpt.launch.run_dir import RunDir
from reprogpt.model.registry import build_model
from reprogpt.runtime.device import autocast, numerics, peak_flops, set_determinism
from reprogpt.runtime.distributed import Process, leave, process_group
from reprogpt.runtime.signals import StopSignals, die_with_parent
from reprogpt.tokens.shards import TokenStream
from reprogpt.tokens.tokenizers import load_tokenizer
from reprogpt.training import checkpoint
from reprogpt.training.batch_schedule import batch_sizes
from reprogpt.training.loader import Loader
from reprogpt.training.loss_monitor import LossWatch, recent_losses
from reprogpt.training.metrics_log import Clock, Journal, Row, write_metrics
from reprogpt.training.optimizer import build_optimizer, lr_at
from reprogpt.training.periodic_eval import Probes
from reprogpt.training.sharding import (
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
)
from reprogpt.training.train_step import Network, build_network

CPU_IS_FULL = "DefaultCPUAllocator"
"""What torch's message names when the system gives no memory; it has no class of its own."""


class Trainer:
    """One run on one process. ``Trainer(run, process).run()`` trains what is left of it."""

    def __init__(self, run: RunDir, process: Process) -> None:
        self.run_dir, self.process, self.cfg = run, process, run.config
        train, model = self.cfg.train, self.cfg.model
        tokens = Path(run.paths.tokens)
        verify = self.cfg.runtime.verify
        self.loader = Loader(TokenStream(tokens, "train", verify),
                             batch_sizes(train, model.block_size), model.block_size,
                             self.cfg.seed, train.order)
        self.val_stream = TokenStream(tokens, "val", verify)
        tokenizer = load_tokenizer(tokens / "tokenizer")
        self.token_bytes = tokenizer.token_bytes()

        # Rank 0 alone looks for the newest whole checkpoint (and sets spoiled ones aside).
        state = checkpoint.latest(run.path) if process.is_first else None
        step = process.from_first(state["step"] if state else None)
        if step is not None and state is None:
            state = checkpoint.load(run.path / f"step_{step:06d}.pt")
        self.step: int = step or 0
        resolved = state["resolved"] if state else {}
        set_determinism(train.deterministic, train.precision)
        self.net: Network = build_network(run, process, self.loader, resolved)
        self.model = self.net.model
        self.optimizer = build_optimizer(
            self.model, train, self.cfg.runtime.shard_optimizer and process.world_size > 1)
        self.scaler = torch.amp.GradScaler(process.device.type,
                                           enabled=self.net.resolved["precision"] == "float16")
        self.clock = Clock(process.device)
        self.best: dict[str, float] | None = None
        self.recent = recent_losses(train.eval_interval)
        rows: list[Row] = []
        if state is not None:
            rows = self._restore(state)
        self.journal = Journal(Path(run.paths.csv) if process.is_first else None, rows)
        self.watch = LossWatch(self.loader, run.path, train.max_loss_spike,
                               self.scaler.is_enabled())
        self.at_once = tokens_at_once(process.device, self.cfg.runtime.eval_tokens)
        self.probes = Probes(train, self.cfg.sample, self.cfg.seed, tokenizer, process,
                             at_once=self.at_once, step=self.step, run=run.path,
                             metrics=run.paths.probes,
                             hellaswag_file=Path(run.paths.hellaswag))
        self._pending: list[Tensor] = []
        self._saved = self.step if state is not None else -1
        self._logged = self.step

    def run(self) -> None:
        """Trains to max_steps, then writes the model and metrics/train.json."""
        cfg, process = self.cfg.train, self.process
        steps = range(self.step, cfg.max_steps)
        bar = tqdm(total=cfg.max_steps, initial=self.step, unit="step", desc="train",
                   disable=not process.is_first, mininterval=0.5)
        if steps:
            self.net.warm_up(self.loader, self.optimizer)
        self.clock.start()
        with StopSignals() as stop, bar:
            if self.step == 0:
                self._log(self._evaluate())
                self._probe()
            for batch in self.loader.ahead(steps, process.rank, process.world_size):
                here = batch.to(process.device)
                self._pending.append(self.net.update(here, self.step, self.optimizer,
                                                     self.scaler, cfg))
                self.step += 1
                bar.update()
                last = self.step == cfg.max_steps
                if self.step % cfg.eval_interval == 0 or last:
                    self._log(self._evaluate())
                elif self.step % cfg.log_interval == 0:
                    self._log()
                self._probe()
                shown = {"loss": self.journal.last("train_loss"),
                         "val": self.journal.last("val_loss")}
                bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()
                                 if not math.isnan(value)}, refresh=False)
                stopping = process.any(stop.received)
                if stopping or last or self.step % self.cfg.runtime.checkpoint_interval == 0:
                    self._save()
                if stopping and not last:
                    raise Stopped(f"stopped at step {self.step} of {cfg.max_steps}, checkpoint "
                                  "saved; the same command continues from there")
        weights = model_state(self.model, process)
        if process.is_first:
            self._finish(weights)
            self.run_dir.done.touch()

    def _log(self, val_loss: float = math.nan) -> None:
        """Writes the row of the current step, after checking every step since the last one."""
        losses, norm = self._flush()
        elapsed = self.clock.lap()
        tokens = self.loader.tokens(self.step)
        new, self._logged = tokens - self.loader.tokens(self._logged), self.step
        self.journal.write({
            "step": self.step, "tokens": tokens, "seconds": self.clock.seconds, "grad_norm": norm,
            "train_loss": losses[-1] if losses else math.nan, "val_loss": val_loss,
            "lr": lr_at(self.step - 1, self.cfg.train) if self.step else math.nan,
            "tokens_per_second": new / elapsed if new else math.nan,
        })

    def _flush(self) -> tuple[list[float], float]:
        """The global mean losses of the steps since the last flush, and the last gradient norm.

        The one place where a step's numbers come off the device, so the one where they are
        looked at. Raises NotFinite with the step and where its tokens came from.
        """
        if not self._pending:
            return [], math.nan
        values = torch.stack(self._pending)  # (steps, 2)
        self._pending.clear()
        losses = self.process.sum(values[:, 0].contiguous()).tolist()
        norms = values[:, 1].tolist()
        first = self.step - len(losses)
        for i, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            self.watch.check(first + i + 1, loss, norm, tuple(self.recent))
            self.recent.append(loss)
        return losses, norms[-1]

    def _evaluate(self) -> float:
        with self.clock.stopped():
            with autocast(self.process.device, self.net.precision):
                loss = validation_loss(self.model, self.val_stream, self.token_bytes,
                                       self.net.apart, val_tokens=self.cfg.train.val_tokens,
                                       block_size=self.cfg.model.block_size,
                                       at_once=self.at_once).loss
            if self.cfg.train.keep == "best" and loss < (self.best or {"loss": math.inf})["loss"]:
                self.best = {"loss": loss, "step": self.step}
                best = {"model": model_state(self.model, self.process)}
                if self.process.is_first:
                    checkpoint.save(self.run_dir.path, f"best_{self.step:06d}", best)
        return loss

    def _probe(self) -> None:
        if self.probes.due(self.step):
            with self.clock.stopped():
                self.probes(self.step, self.model)

    def _save(self) -> None:
        if self._saved == self.step:
            return
        with self.clock.stopped() as seconds:
            self._flush()  # never save a state that is not finite
            state = {
                "step": self.step, "model": model_state(self.model, self.process),
                "optimizer": optimizer_state(self.optimizer, self.process),
                "scaler": self.scaler.state_dict(), "seconds": seconds, "best": self.best,
                "rows": self.journal.rows, "recent": list(self.recent),
                "resolved": self.net.resolved, "numerics": self._numerics(),
            }
            if self.process.is_first:
                checkpoint.save(self.run_dir.path, f"step_{self.step:06d}", state)
                best = int(self.best["step"]) if self.best else None
                checkpoint.prune(self.run_dir.path, self.cfg.runtime.keep_checkpoints, best)
        self._saved = self.step

    def _restore(self, state: dict[str, Any]) -> list[Row]:
        load_model_state(self.model, state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.clock, self.best = Clock(self.process.device, state["seconds"]), state["best"]
        self.recent.extend(state["recent"])
        was, now = (old | new for old, new in ((state["numerics"], state["resolved"]),
                                               (self._numerics(), self.net.resolved)))
        changed = [f"{k} {was[k]} -> {now[k]}" for k in was.keys() & now if was[k] != now[k]]
        if self.process.is_first:
            print(f"continuing run {self.run_dir.path.name} from step {self.step}",
                  file=sys.stderr)
            if changed:
                print("this continuation is no longer bit-identical to an uninterrupted run: "
                      + ", ".join(changed), file=sys.stderr)
        return list(state["rows"])

    def _numerics(self) -> dict[str, str]:
        runtime = self.cfg.runtime
        return numerics(self.process.device) | {
            "processes": str(self.process.world_size), "parallel": runtime.parallel,
            "shard_optimizer": str(runtime.shard_optimizer)}

    def _finish(self, weights: dict[str, Tensor]) -> None:
        cfg = self.cfg.train
        if cfg.keep == "best" and self.best is not None:
            best = self.run_dir.path / f"best_{int(self.best['step']):06d}.pt"
            try:
                weights = checkpoint.load(best)["model"]
            except ValueError as error:
                raise ValueError(f"{error}; it was the best model: remove {self.run_dir.path} to "
                                 "train anew") from None
        model = build_model(self.cfg.model, self.model.vocab_size)
        model.load_state_dict(weights)
        hf.save_model(Path(self.run_dir.paths.model), model, self.cfg.model,
                      Path(self.run_dir.paths.tokens) / "tokenizer")
        tokens = self.loader.tokens(self.step)
        seconds = self.clock.seconds
        speed = tokens / seconds if seconds else math.nan
        peak = peak_flops(self.process.device)
        recent = list(self.recent)[-cfg.eval_interval:]
        flops = self.model.flops_per_token(self.cfg.model.block_size)
        write_metrics(Path(self.run_dir.paths.json), {
            "steps": self.step, "tokens": tokens,
            "epochs": round(self.loader.epochs(self.step), 4),
            "unused_tokens": self.loader.unused_tokens,
            "train_loss": sum(recent) / len(recent) if recent else math.nan,
            "val_loss": self.best["loss"] if self.best else self.journal.last("val_loss"),
            "tokens_per_second": speed, "seconds": seconds,
            "mfu": speed * flops / (peak * self.process.world_size) if peak else None,
            "parameters": self.model.num_parameters(), "fingerprint": self.run_dir.path.name,
        })


class Stopped(Exception):
    """A signal asked for an early end; the checkpoint is saved."""


def main() -> int:
    """Runs one process; the exit status is 0 when the run is finished."""
    die_with_parent()
    run = RunDir.open(Path(sys.argv[1]))
    started, micro_batch = False, run.config.runtime.micro_batch
    try:
        with process_group(run.config.runtime.device, run.config.runtime.timeout) as process:
            if process.is_first:  # a group that is started again writes everything again
                run.done.unlink(missing_ok=True)
            trainer = Trainer(run, process)
            started, micro_batch = True, trainer.net.micro_batch
            trainer.run()
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 75  # EX_TEMPFAIL: try again
    except ValueError as error:
        return final(run, str(error))
    except OSError as error:
        return final(run, unwritable(error, str(run.path)))
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or CPU_IS_FULL in str(error):
            return final(run, "out of memory: a smaller runtime.micro_batch, which was "
                              f"{micro_batch}, changes no result; or lower the model's size "
                              f"({str(error).partition(chr(10))[0][:120]})")
        if started:
            raise
        traceback.print_exc()
        return final(run, "training could not start, the traceback is above: "
                          f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return 0


def final(run: RunDir, reason: str) -> int:
    """Leaves the reason why trying again is no use, so that the launcher does not."""
    try:
        run.failure.write_text(reason, encoding="utf-8")
    except OSError:  # a full disk may still hold an empty file
        print(reason, file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        status = main()
    except BaseException:
        traceback.print_exc()
        status = 1
    leave(status)
