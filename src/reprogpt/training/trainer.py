"""Training: build the parts, restore their state, loop over the steps, save.

    loader.prefetch -> Batch of step s: idx, targets (rows, T), this process's rows
      -> train_step: per micro-batch wrapped(...) = nll(model(idx), targets), summed over targets;
         / valid targets of the global batch; backward; clip; optimizer.step at lr_at(s)
      -> loss, gradient norm -> LossMonitor -> MetricsLog: metrics/train.csv
    every eval_interval the validation loss, every checkpoint_interval runs/<fingerprint>/step_*.pt,
    at the end models/gpt and metrics/train.json
"""

import math
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reprogpt.config import Config
from reprogpt.evaluation.scoring import tokens_at_once
from reprogpt.evaluation.validation import mixture_loss
from reprogpt.formats import huggingface as hf
from reprogpt.launch.checkpoint_store import CheckpointCopies
from reprogpt.launch.run_dir import Paths, RunDir
from reprogpt.model.gpt import GPT
from reprogpt.model.registry import build_model
from reprogpt.runtime.device import autocast, numerics, set_determinism
from reprogpt.runtime.distributed import Process
from reprogpt.runtime.signals import StopSignals
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


class Stopped(Exception):
    """A signal ended the run early; the checkpoint is saved."""


class Trainer:
    """One process's part of a run. ``Trainer(run, process).run()`` trains what is left of it."""

    def __init__(self, run: RunDir, process: Process) -> None:
        """Builds everything, and restores the newest intact checkpoint if there is one."""
        self.run_dir, self.process, self.cfg = run, process, run.config
        cfg, train, runtime = self.cfg, self.cfg.train, self.cfg.runtime
        tokens = Path(run.paths.tokens)
        self.loader = open_loader(cfg, tokens, Path(run.paths.init), process.world_size)
        val_streams = open_split(tokens, "val", runtime.verify)
        self.full_check = FullCheck(process, *self.loader.streams.values(),
                                    *val_streams.values())
        tokenizer = shard_tokenizer(tokens, read_manifest(tokens).tokenizer)

        restored = checkpoint.restore(run.path, process)
        state = checkpoint.new_state() | (restored or {})
        self.step: int = state["step"]  # updates done
        self.best: dict[str, Any] | None = state["best"]  # of train.keep=best: loss, step
        set_determinism(train.deterministic, train.precision)
        self.model = initial_model(cfg, run.paths)
        resolved = process.from_first(resolve_auto(cfg, process, state["resolved"]))
        self.wrapped = WrappedModel(self.model, process, cfg, resolved)
        self.optimizer = build_optimizer(self.model, train, shard_state=runtime.shard_optimizer
                                         and process.world_size > 1)
        self.scaler = torch.amp.GradScaler(process.device.type,
                                           enabled=self.wrapped.precision == "float16")
        self.numerics = numerics(process.device) | {
            "processes": str(process.world_size), "parallel": runtime.parallel,
            "shard_optimizer": str(runtime.shard_optimizer)}
        self.copies = CheckpointCopies(runtime.checkpoint_store, run.path,
                                       runtime.keep_checkpoints, runtime.timeout / 2)
        if restored:
            checkpoint.load_into(self.model, self.optimizer, self.scaler, state, run.path)
            if process.is_first:
                checkpoint.announce(state, self.numerics | resolved, run.path)
                self.copies.start(self.step, self.best["step"] if self.best else None)

        at_once = tokens_at_once(process.device, runtime.eval_tokens)
        self.validation = partial(
            mixture_loss, self.model, val_streams, self.loader.shares, tokenizer.token_bytes(),
            self.wrapped.evaluators, val_tokens=train.val_tokens, block_size=cfg.model.block_size,
            at_once=at_once)
        self.probes = Probes(run, tokenizer, process, at_once, state["probes"])
        self.monitor = LossMonitor(self.loader, run.path, process, train,
                                   self.scaler.is_enabled(), state["recent"])
        self.log = open_log(run, state["rows"], process.is_first)
        self.clock = Clock(process.device, state["seconds"])

    def run(self) -> None:
        """Trains to its end, then writes the model and metrics/train.json. Raises Stopped after
        a signal, NotFinite when the loss diverges."""
        cfg, process = self.cfg.train, self.process
        end = self._planned_steps()
        steps = range(self.step, cfg.max_steps if self.step < end else self.step)
        if steps:
            with self.clock.stopped():
                warm_up(self.wrapped, self.loader, self.optimizer)
        bar = TrainBar(self.log, self.wrapped.mfu, shown=process.is_first)
        with StopSignals() as stop, closing(self.log), closing(bar):
            if self.step == 0:
                self._measure(lr=math.nan, last=False)
            for batch in self.loader.prefetch(steps, process.rank, process.world_size):
                lr = lr_at(self.step, cfg, end)
                loss_and_norm = train_step(self.wrapped, self.optimizer, self.scaler,
                                           batch.to(process.device), self.step, cfg, lr)
                self.monitor.add(loss_and_norm)
                self.step += 1
                end = self._planned_steps()
                last = self.step >= end
                self._measure(lr, last)
                bar.update(self.step, end)
                stopping = process.any(bool(stop.received or self.full_check.problem))
                if stopping or last or self.step % self.cfg.runtime.checkpoint_interval == 0:
                    self._save()
                if last:
                    break
                if stopping:
                    self.copies.wait()
                    raise Stopped(f"stopped at step {self.step} of {end:.0f}, checkpoint saved; "
                                  "the same command continues from there")
        self.full_check.require_good()
        weights = sharding.full_state(self.model, process)
        if process.is_first:
            self._finish(weights)
            self.copies.wait()
            self.run_dir.done.touch()

    def _planned_steps(self) -> float:
        """Steps at the run's end; with train.max_seconds by rank 0's clock. A collective then."""
        timed = self.cfg.train.max_seconds is not None
        seconds = self.process.from_first(self.clock.seconds()) if timed else 0.0
        return planned_steps(self.step, seconds, self.cfg.train)

    def _measure(self, lr: float, last: bool) -> None:
        """What is due after this step: a row of metrics/train.csv, perhaps with a validation loss;
        HellaSwag and samples. Every step since the last row is checked first."""
        cfg = self.cfg.train
        validating = last or self.step % cfg.eval_interval == 0
        if validating or self.step % cfg.log_interval == 0:
            loss, norm = self.monitor.flush(self.step)
            with self.clock.stopped() as seconds:
                val_loss = self._validate() if validating else math.nan
            tokens = self.loader.tokens(self.step)
            self.log.write({"step": self.step, "train_loss": loss, "val_loss": val_loss, "lr": lr,
                            "grad_norm": norm, "tokens": tokens, "seconds": seconds,
                            "tokens_per_second": self.log.speed(tokens, seconds)})
        if self.probes.due(self.step):
            with self.clock.stopped():
                self.probes(self.step, self.model)

    def _validate(self) -> float:
        """The validation loss; with train.keep=best the weights are saved if it is the lowest."""
        with autocast(self.process.device, self.wrapped.precision):
            found, _ = self.validation()
        if found.tokens and not math.isfinite(found.loss):
            raise NotFinite(f"the validation loss after step {self.step} is not finite; "
                            "lower train.lr")
        if self.cfg.train.keep == "best" and (not self.best or found.loss < self.best["loss"]):
            self.best = {"loss": found.loss, "step": self.step}
            weights = sharding.full_state(self.model, self.process)
            if self.process.is_first:
                checkpoint.save(self.run_dir.path, f"best_{self.step:06d}", {"model": weights})
        return found.loss

    def _save(self) -> None:
        """Saves the state after this step: all that a resumed run needs. A collective."""
        with self.clock.stopped() as seconds:
            self.full_check.require_good()  # a checkpoint of bad data would outlive their repair
            self.monitor.flush(self.step)  # raises before a diverged state is saved
            self.monitor.require_finite(self.step, self.model)
            state = {
                "step": self.step, "model": sharding.full_state(self.model, self.process),
                "optimizer": sharding.full_state(self.optimizer, self.process),
                "scaler": self.scaler.state_dict(), "seconds": seconds, "best": self.best,
                "rows": self.log.rows, "probes": self.probes.records,
                "recent": list(self.monitor.recent), "resolved": self.wrapped.resolved,
                "numerics": self.numerics,
            }
            if self.process.is_first:
                run, best = self.run_dir.path, self.best["step"] if self.best else None
                checkpoint.save(run, f"step_{self.step:06d}", state)
                self.copies.start(self.step, best)  # the copy before ends before its file is gone
                checkpoint.prune(run, self.cfg.runtime.keep_checkpoints, best)

    def _finish(self, weights: dict[str, Tensor]) -> None:
        """Writes the model (with train.keep=best the best one) and metrics/train.json."""
        run, cfg, last = self.run_dir, self.cfg, self.log.rows[-1]
        model = build_model(cfg.model, self.model.vocab_size)
        if self.best:
            checkpoint.load_best(model, run.path, self.best["step"])
        else:
            model.load_state_dict(weights)
        if not all(p.isfinite().all() for p in model.parameters()):
            raise ValueError(f"{run.path}: its weights have values that are nan or infinite; "
                             "remove it, and train anew with a lower train.lr")
        hf.save_model(Path(run.paths.model), model, cfg.model, Path(run.paths.tokens, "tokenizer"))
        speed = last["tokens"] / last["seconds"] if last["seconds"] else math.nan
        write_metrics(Path(run.paths.json), {
            "steps": self.step, **self.loader.counts(self.step),
            "train_loss": self.monitor.mean(cfg.train.eval_interval),
            "val_loss": self.best["loss"] if self.best else last["val_loss"],
            "tokens_per_second": speed, "seconds": last["seconds"], "mfu": self.wrapped.mfu(speed),
            "parameters": model.num_parameters(),
            "reference": Path(run.paths.reference).stem or None, "fingerprint": run.path.name,
        })


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
