"""The run's parameters: typed sections, checked once at the border, frozen ever after.

``Config.load("params.yaml")`` either returns a whole, valid configuration or raises one
:class:`ConfigError` whose message is a line a user can act on: file, key, value, rule, fix.
Past this border every function takes its own section (``cfg.model``), never the whole.

The sections are in sections.py and recipe.py. A field without a default must be spelled out in
params.yaml. A field with a default is a *switch*: absent means off, and an off switch is left out
of the fingerprint, so that a new one changes no finished run.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from reprogpt.config.messages import explain
from reprogpt.config.recipe import BatchRampConfig, ModelConfig, TrainConfig
from reprogpt.config.sections import (
    DownloadConfig,
    EvaluateConfig,
    HubConfig,
    RuntimeConfig,
    SampleConfig,
    Section,
    SuitesConfig,
    TaskConfig,
    TokenizeConfig,
)
from reprogpt.config.yaml_file import merge, read_yaml
from reprogpt.errors import ConfigError

__all__ = ["BatchRampConfig", "Config", "ConfigError", "DownloadConfig", "EvaluateConfig",
           "HubConfig", "ModelConfig", "RuntimeConfig", "SampleConfig", "SuitesConfig",
           "TaskConfig", "TokenizeConfig", "TrainConfig", "merge", "read_yaml"]

CORPORA = ("shakespeare", "tinyshakespeare", "fineweb-edu", "hub", "files", "shards", "addition",
           "calculator")
"""What `download.corpus` may name: corpora.py, adopt.py and generated.py."""
SAMPLES_BYTES = 16 << 30
"""What the samples may keep in memory: as much as a common GPU, or a laptop, has."""
ARCHITECTURES = ("gpt", "bigram", "average", "head", "multihead", "feedforward", "blocks",
                 "residual", "layernorm", "dropout")
"""What `model.architecture` may name: architectures.py."""


class Config(Section):
    """params.yaml, whole. ``Config.load`` makes one."""

    preset: str
    """The preset that these params started from; `python -m pipeline.preset NAME` writes it."""
    seed: Annotated[int, Field(ge=0, lt=2**62)]
    download: DownloadConfig
    tokenize: TokenizeConfig
    model: ModelConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    sample: SampleConfig
    runtime: RuntimeConfig

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        """The names that files below this one give a meaning to: unknown ones end here, before
        a stage's outs are deleted for it."""
        for key, name, known in (("download.corpus", self.download.corpus, CORPORA),
                                 ("model.architecture", self.model.architecture, ARCHITECTURES)):
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
                fix = f"did you mean {close[0]}?" if close else "choose one of them"
                raise ValueError(f"{key}||must be {', '.join(known[:-1])} or {known[-1]}||{fix}")
        return self

    @model_validator(mode="after")
    def _a_row_for_everyone(self) -> Self:
        ramp, nproc = self.train.batch_ramp, self.runtime.nproc
        key, tokens = (("batch_ramp.start_tokens", ramp.start_tokens) if ramp else
                       ("batch_tokens", self.train.batch_tokens))
        rows = tokens // self.model.block_size
        if isinstance(nproc, int) and nproc > rows > 0:
            raise ValueError(f"runtime.nproc||must be at most {rows}, the rows of train.{key}||"
                             f"lower it, or raise train.{key}")
        return self

    @model_validator(mode="after")
    def _a_table_of_pairs(self) -> Self:
        if self.model.architecture == "bigram" and self.tokenize.encoding == "gpt2":
            raise ValueError("tokenize.encoding||must be char for model.architecture bigram, whose "
                             "table of pairs would have 2.5 billion numbers||set it to char")
        return self

    @model_validator(mode="after")
    def _whole_windows(self) -> Self:
        block = self.model.block_size
        for key, tokens in (("train.val_tokens", self.train.val_tokens),
                            ("evaluate.val_tokens", self.evaluate.val_tokens)):
            if tokens is not None and tokens < block:
                raise ValueError(f"{key}||must hold one window of model.block_size = {block} "
                                 f"tokens||try {16 * block}")
        return self

    @model_validator(mode="after")
    def _samples_fit(self) -> Self:
        """Keys and values of every position of every sample are held at once, in float32."""
        model, sample = self.model, self.sample
        longest = max(len(prompt.encode("utf-8", "replace")) for prompt in sample.prompts)
        positions = min(model.block_size, longest + sample.max_new_tokens)
        each = len(sample.prompts) * positions * 2 * model.n_layer * model.n_embd * 4
        if sample.num_samples > 1 and sample.num_samples * each > SAMPLES_BYTES:
            raise ValueError("sample.num_samples||must leave the keys and values of all samples, "
                             f"{each / 2**20:.1f} MB for one of each prompt, below "
                             f"{SAMPLES_BYTES >> 30} GB||try {max(1, SAMPLES_BYTES // each)}")
        return self

    @model_validator(mode="after")
    def _one_sharing(self) -> Self:
        runtime = self.runtime
        cut_up = runtime.parallel == "fsdp" or runtime.shard_optimizer
        if self.train.optimizer == "muon" and cut_up:
            raise ValueError("train.optimizer||needs whole matrices on every process, and "
                             "runtime.parallel fsdp or shard_optimizer cuts them up||set it to "
                             "adamw, or runtime to parallel ddp without shard_optimizer")
        probed = [name for name in ("hellaswag_interval", "sample_interval")
                  if getattr(self.train, name) is not None]
        if probed and runtime.parallel == "fsdp":
            raise ValueError(f"train.{probed[0]}||needs a whole model, which runtime.parallel fsdp "
                             "cuts up||leave it out, or set runtime.parallel to ddp")
        return self

    @model_validator(mode="after")
    def _whole_rows(self) -> Self:
        block, full, ramp = self.model.block_size, self.train.batch_tokens, self.train.batch_ramp
        for key, tokens in (("batch_tokens", full),
                            ("batch_ramp.start_tokens", ramp.start_tokens if ramp else full)):
            if tokens % block:
                near = max(1, round(tokens / block)) * block
                raise ValueError(f"train.{key}||must be a multiple of model.block_size = {block}"
                                 f"||try {near}")
            if tokens > full:
                raise ValueError(f"train.{key}||must be at most train.batch_tokens = {full}, to "
                                 f"which the batch grows||try {block}")
        return self

    @classmethod
    def load(cls, path: str | Path = "params.yaml") -> Self:
        """Reads and checks a params file. Raises ConfigError with one line a user can act on."""
        return cls.parse(read_yaml(path), source=str(path))

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str = "params") -> Self:
        """The same for values already read; ``source`` names their file in messages."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, source)) from None

    def fingerprint(self, contents: Iterable[tuple[str, str]]) -> str:
        """16 hex digits that name a training run.

        Covers model, train and seed, and ``contents``: (name, sha256) of everything else that
        decides the weights (token manifest, initial weights, source files). Never `runtime`.
        """
        identity = {
            "model": self.model.canonical(),
            "train": self.train.canonical(),
            "seed": self.seed,
            "contents": sorted(contents),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
