"""Training: build, restore, loop over the steps, save. Each process of a run executes this.

    python -m reprogpt.training.trainer RUN_DIR
"""

import math
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reprogpt.config import Config
from reprogpt.errors import unwritable
from reprogpt.evaluation.scoring import tokens_at_once
from reprogpt.evaluation.validation import mixture_loss
from reprogpt.formats import huggingface as hf
from reprogpt.launch.checkpoint_store import CheckpointCopies
from reprogpt.launch.run_dir import Paths, RunDir
from reprogpt.model.gpt import GPT
from reprogpt.model.registry import build_model
from reprogpt.runtime.contention import ProcessorWait
from reprogpt.runtime.device import autocast, numerics, peak_flops, set_determinism
from reprogpt.runtime.distributed import Process, leave, process_group
from reprogpt.runtime.signals import StopSignals, die_with_parent
from reprogpt.tokens.full_check import FullCheck
from reprogpt.tokens.manifest import read_manifest
from reprogpt.tokens.shards import open_split
from reprogpt.tokens.tokenizers import shard_tokenizer
from reprogpt.training import checkpoint, sharding
from reprogpt.training.auto import resolve_auto
from reprogpt.training.loader import open_loader
from reprogpt.training.loss_monitor import LossMonitor, NotFinite
from reprogpt.training.metrics_log import Clock, open_log, write_metrics
from reprogpt.training.micro_batch import warm_up
from reprogpt.training.optimizer import build_optimizer, lr_at, planned_steps
from reprogpt.training.periodic_eval import Probes
from reprogpt.training.train_bar import TrainBar
from reprogpt.training.train_step import train_step
from reprogpt.training.wrap import WrappedModel

CPU_OUT_OF_MEMORY = "DefaultCPUAllocator"
"""In torch's message when the system gives no memory; that error has no class of its own."""


class Trainer:
    """One process's part of a run. ``Trainer(run, process).run()`` trains what is left of it."""

    def __init__(self, run: RunDir, process: Process) -> None:
        """Builds everything, and restores the newest intact checkpoint if there is one."""
        self.run_dir, self.process, self.cfg = run, process, run.config
        cfg, train, runtime = self.cfg, self.cfg.train, self.cfg.runtime
        tokens = Path(run.paths.tokens)
        self.loader = open_loader(cfg, tokens, Path(run.paths.init))
        self.val_streams = open_split(tokens, "val", runtime.verify)
        streams = [windows.stream for windows in self.loader.corpora.values()]
        self.full_check = FullCheck(process, *streams, *self.val_streams.values())
        tokenizer = shard_tokenizer(tokens, streams[0].manifest.tokenizer)
        self.token_bytes = tokenizer.token_bytes()
        if (rows := self.loader.sizes.rows(0)) < process.world_size:
            which, key = (("a", "batch_tokens") if train.batch_ramp is None
                          else ("the first", "batch_ramp.start_tokens"))
            raise ValueError(f"params.yaml: runtime.nproc={process.world_size} is more than the "
                             f"{rows} rows of {which} batch; lower it or raise train.{key}")

        state = checkpoint.restore(run.path, process)
        self.step: int = state["step"] if state else 0  # updates done
        set_determinism(train.deterministic, train.precision)
        self.model = initial_model(cfg, run.paths)
        known = state["resolved"] if state else {}
        several = process.world_size > 1
        self.wrapped = WrappedModel(
            self.model, process, cfg.seed, process.from_first(resolve_auto(cfg, process, known)),
            fsdp=runtime.parallel == "fsdp" and several, growing=train.batch_ramp is not None)
        self.optimizer = build_optimizer(self.model, train, runtime.shard_optimizer and several)
        self.scaler = torch.amp.GradScaler(process.device.type,
                                           enabled=self.wrapped.precision == "float16")
        if state is not None:
            with checkpoint.restoring(run.path / f"step_{self.step:06d}.pt"):
                self._restore(state)
        past = state or {"seconds": 0.0, "best": None, "rows": [], "recent": []}
        self.clock = Clock(process.device, past["seconds"])
        self.best: dict[str, Any] | None = past["best"]  # of train.keep=best: loss, step
        self.monitor = LossMonitor(self.loader, run.path, process, train,
                                   self.scaler.is_enabled(), past["recent"])
        self.log = open_log(run, past["rows"], process.is_first)
        self.at_once = tokens_at_once(process.device, runtime.eval_tokens)
        self.probes = Probes(train, cfg.sample, cfg.seed, tokenizer, process,
                             at_once=self.at_once, step=self.step, run=run.path,
                             metrics=run.paths.probes, hellaswag_file=Path(run.paths.hellaswag))
        self.copies = CheckpointCopies(runtime.checkpoint_store, run.path,
                                       runtime.keep_checkpoints, runtime.timeout / 2)
        if state is not None and process.is_first:
            self.copies.start(self.step, self.best["step"] if self.best else None)
        self.lr, self.peak = math.nan, peak_flops(process.device)
        self.waiting = ProcessorWait()
        self._saved = self.step if state is not None else -1
        self._logged = self.step

    def run(self) -> None:
        """Trains to its end, then writes the model and metrics/train.json. Raises Stopped after
        a signal, NotFinite when the loss diverges."""
        cfg, process = self.cfg.train, self.process
        end = self._planned_steps()
        steps = range(self.step, cfg.max_steps if self.step < end else self.step)
        if steps:
            warm_up(self.wrapped, self.loader, self.optimizer)
        self.clock.start()
        bar = TrainBar(self.log, self.step, process.is_first)
        with StopSignals() as stop, closing(self.log), closing(bar):
            if self.step == 0:
                self._log(self._evaluate())
                self._probe()
            for batch in self.loader.prefetch(steps, process.rank, process.world_size):
                self.lr = lr_at(self.step, cfg, end)
                self.monitor.add(train_step(self.wrapped, self.optimizer, self.scaler,
                                            batch.to(process.device), self.step, cfg, self.lr))
                self.step += 1
                end = self._planned_steps()
                last = self.step >= end
                if last or self.step % cfg.eval_interval == 0:
                    self._log(self._evaluate())
                elif self.step % cfg.log_interval == 0:
                    self._log()
                self._probe()
                bar.update(self.step, end, self._mfu(self.log.last("tokens_per_second")),
                           self.waiting.shown())
                stopping = process.any(bool(stop.received or self.full_check.problem))
                if stopping or last or self.step % self.cfg.runtime.checkpoint_interval == 0:
                    self._save()
                if stopping and not last:
                    self.copies.wait()
                    raise Stopped(f"stopped at step {self.step} of {end:.0f}, checkpoint saved; "
                                  "the same command continues from there")
                if last:
                    break
        self.full_check.require_good()
        weights = sharding.full_state(self.model, process)
        if process.is_first:
            self._finish(weights)
            self.copies.wait()
            self.run_dir.done.touch()

    def _planned_steps(self) -> float:
        """Steps at the run's end; with train.max_seconds by rank 0's clock. A collective then."""
        timed = self.cfg.train.max_seconds is not None
        seconds = self.process.from_first(self.clock.total) if timed else 0.0
        return planned_steps(self.step, seconds, self.cfg.train)

    def _mfu(self, tokens_per_second: float) -> float | None:
        """Model FLOPs utilization; None where the device's peak is not known."""
        if self.peak is None:
            return None
        flops = tokens_per_second * self.model.flops_per_token(self.cfg.model.block_size)
        return flops / (self.peak * self.process.world_size)

    def _log(self, val_loss: float = math.nan) -> None:
        """Writes the row of the present step, after checking every step since the last row."""
        loss, norm = self.monitor.flush(self.step)
        elapsed = self.clock.lap()
        tokens = self.loader.tokens(self.step)
        new, self._logged = tokens - self.loader.tokens(self._logged), self.step
        if self.process.is_first and new:
            self.waiting.tell(new / elapsed)
        self.log.write({
            "step": self.step, "tokens": tokens, "seconds": self.clock.seconds, "grad_norm": norm,
            "train_loss": loss, "val_loss": val_loss,
            "lr": self.lr,
            "tokens_per_second": new / elapsed if new else math.nan,
        })

    def _evaluate(self) -> float:
        """The validation loss; with train.keep=best the weights are saved if it is the lowest."""
        with self.clock.stopped():
            with autocast(self.process.device, self.wrapped.precision):
                found, _ = mixture_loss(
                    self.model, self.val_streams, self.loader.shares, self.token_bytes,
                    self.wrapped.evaluators, val_tokens=self.cfg.train.val_tokens,
                    block_size=self.cfg.model.block_size, at_once=self.at_once)
            loss = found.loss
            if found.tokens and not math.isfinite(loss):
                self.monitor.flush(self.step)  # raises where a step before has the reason
                raise NotFinite(f"the validation loss after step {self.step} is not finite; "
                                "lower train.lr")
            if self.cfg.train.keep == "best" and (self.best is None or loss < self.best["loss"]):
                self.best = {"loss": loss, "step": self.step}
                best = {"model": sharding.full_state(self.model, self.process)}
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
            self.full_check.require_good()  # a checkpoint of bad data would outlive their repair
            self.monitor.flush(self.step)  # raises before a diverged state is saved
            self.monitor.require_finite(self.step, self.model)
            state = {
                "step": self.step, "model": sharding.full_state(self.model, self.process),
                "optimizer": sharding.full_state(self.optimizer, self.process),
                "scaler": self.scaler.state_dict(), "seconds": seconds, "best": self.best,
                "rows": self.log.rows, "recent": list(self.monitor.recent),
                "resolved": self.wrapped.resolved, "numerics": self._numerics(),
            }
            if self.process.is_first:
                best = self.best["step"] if self.best else None
                checkpoint.save(self.run_dir.path, f"step_{self.step:06d}", state)
                self.copies.start(self.step, best)  # the copy before ends before its file is gone
                checkpoint.prune(self.run_dir.path, self.cfg.runtime.keep_checkpoints, best)
        self._saved = self.step

    def _restore(self, state: dict[str, Any]) -> None:
        """Loads model, optimizer and scaler; warns where the last bits may differ from now on."""
        sharding.load_model_state(self.model, state["model"])
        sharding.load_optimizer_state(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        was = state["numerics"] | state["resolved"]
        now = self._numerics() | self.wrapped.resolved
        changed = [f"{k} {was[k]} -> {now[k]}" for k in was.keys() & now if was[k] != now[k]]
        if self.process.is_first:
            print(f"continuing run {self.run_dir.path.name} from step {self.step}", file=sys.stderr)
        if self.process.is_first and changed:
            print("this continuation is no longer bit-identical to an uninterrupted run: "
                  + ", ".join(changed), file=sys.stderr)

    def _numerics(self) -> dict[str, str]:
        runtime = self.cfg.runtime
        return numerics(self.process.device) | {
            "processes": str(self.process.world_size), "parallel": runtime.parallel,
            "shard_optimizer": str(runtime.shard_optimizer)}

    def _finish(self, weights: dict[str, Tensor]) -> None:
        """Writes the model (with train.keep=best the best one) and metrics/train.json."""
        run, cfg = self.run_dir, self.cfg
        model = build_model(cfg.model, self.model.vocab_size)
        if self.best is not None:
            path = run.path / f"best_{self.best['step']:06d}.pt"
            try:
                weights = checkpoint.load(path)["model"]
                with checkpoint.restoring(path):
                    model.load_state_dict(weights)
            except ValueError as error:
                raise ValueError(f"{error}; it was the best model: remove {run.path} to train "
                                 "anew") from None
        if not all(w.isfinite().all() for w in weights.values()):
            raise ValueError(f"{run.path}: its weights have values that are nan or infinite; "
                             "remove it, and train anew with a lower train.lr")
        model.load_state_dict(weights)
        hf.save_model(Path(run.paths.model), model, cfg.model, Path(run.paths.tokens, "tokenizer"))
        tokens, seconds = self.loader.tokens(self.step), self.clock.seconds
        speed = tokens / seconds if seconds else math.nan
        write_metrics(Path(run.paths.json), {
            "steps": self.step, "tokens": tokens,
            "epochs": round(self.loader.epochs(self.step), 4),
            "unused_tokens": self.loader.unused_tokens,
            "train_loss": self.monitor.mean(cfg.train.eval_interval),
            "val_loss": self.best["loss"] if self.best else self.log.rows[-1]["val_loss"],
            "tokens_per_second": speed, "seconds": seconds,
            "mfu": self._mfu(speed), "parameters": self.model.num_parameters(),
            "reference": Path(run.paths.reference).stem or None, "fingerprint": run.path.name,
        } | ({"mix": mix} if (mix := self.loader.by_corpus(self.step)) else {}))


def initial_model(cfg: Config, paths: Paths) -> GPT:
    """The run's model with the weights of model.init_from, or random ones from the seed."""
    tokenizer = read_manifest(Path(paths.tokens)).tokenizer
    model = build_model(cfg.model, int(tokenizer["n_vocab"]))
    if (Path(paths.init) / "config.json").exists():
        hf.load_weights(model, Path(paths.init))
        hf.check_tokenizer(Path(paths.init), tokenizer)
    else:
        model.init_weights(torch.Generator().manual_seed(cfg.seed))
    return model


class Stopped(Exception):
    """A signal ended the run early; the checkpoint is saved."""


def main() -> int:
    """Runs one process; the exit status is 0 when the run is finished."""
    die_with_parent()
    run = RunDir.open(Path(sys.argv[1]))
    trainer: Trainer | None = None
    try:
        with process_group(run.config.runtime.device, run.config.runtime.timeout) as process:
            trainer = Trainer(run, process)
            trainer.run()
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 75  # EX_TEMPFAIL: try again
    except ValueError as error:
        return fail_for_good(run, str(error))
    except OSError as error:
        return fail_for_good(run, unwritable(error, str(run.path)))
    except RuntimeError as error:
        what = str(error).partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError) or CPU_OUT_OF_MEMORY in str(error):
            micro_batch = trainer.wrapped.micro_batch if trainer else run.config.runtime.micro_batch
            return fail_for_good(run, "out of memory: a smaller runtime.micro_batch, which was "
                                      f"{micro_batch}, changes no result; or lower the model's "
                                      f"size ({what[:120]})")
        if trainer is not None:
            raise
        traceback.print_exc()
        return fail_for_good(run, "training could not start, the traceback is above: "
                                  f"{type(error).__name__}: {what}")
    return 0


def fail_for_good(run: RunDir, reason: str) -> int:
    """Records why another try is no use, so that the launcher makes none. Returns 1."""
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
