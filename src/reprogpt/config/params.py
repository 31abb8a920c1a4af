"""params.yaml as one typed, frozen object.

``Config.load("params.yaml")`` returns a valid configuration or raises a ConfigError of one line.
Past this border a function takes a section (``cfg.model``), never the whole.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from reprogpt.config.messages import explain
from reprogpt.config.recipe import ModelConfig, TrainConfig
from reprogpt.config.runtime import RuntimeConfig
from reprogpt.config.sections import (
    DownloadConfig,
    EvaluateConfig,
    SampleConfig,
    Section,
    TokenizeConfig,
)
from reprogpt.config.yaml_file import read_yaml
from reprogpt.errors import ConfigError, ParamError

BIGRAM_VOCAB = 8192
"""The largest vocabulary whose table of pairs (256 MB) is reasonable."""


class Config(Section):
    """All of params.yaml: the sections, and the rules between them."""

    preset: str
    """The preset these params started from; `python -m pipeline.preset NAME` writes it."""
    seed: Annotated[int, Field(ge=0, lt=2**62)]
    """Seed of initial weights, batches, dropout and samples."""
    download: DownloadConfig
    tokenize: TokenizeConfig
    model: ModelConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    sample: SampleConfig
    runtime: RuntimeConfig

    @model_validator(mode="after")
    def _token_counts(self) -> Self:
        block, full, ramp = self.model.block_size, self.train.batch_tokens, self.train.batch_ramp
        key, first = (("train.batch_ramp.start_tokens", ramp.start_tokens) if ramp else
                      ("train.batch_tokens", full))
        for name, tokens in (("train.batch_tokens", full), (key, first)):
            if tokens % block:
                raise ParamError(name, f"must be a multiple of model.block_size = {block}",
                                 f"try {max(1, round(tokens / block)) * block}")
        if first > full:
            raise ParamError(key, f"must be at most train.batch_tokens = {full}", f"try {block}")
        if self.runtime.nproc != "auto" and self.runtime.nproc > first // block:
            raise ParamError("runtime.nproc", f"must be at most {first // block}, the rows of "
                             f"{key}", f"lower it, or raise {key}")
        for name, wanted in (("train.val_tokens", self.train.val_tokens),
                             ("evaluate.val_tokens", self.evaluate.val_tokens)):
            if wanted is not None and wanted < block:
                raise ParamError(name, f"must hold one window of model.block_size = {block} tokens",
                                 f"try {16 * block}")
        return self

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        train, runtime = self.train, self.runtime
        if self.download.mix is not None and self.tokenize.split == "tail":
            raise ParamError("tokenize.split", "must be hash or first with download.mix, each "
                             "corpus of which holds out documents of its own", "set it to hash")
        if self.model.architecture == "bigram" and self.tokenize.encoding == "gpt2":
            raise ParamError("tokenize.encoding", "must be char for model.architecture bigram, "
                             "whose table would have 50,257^2 = 2.5 billion entries",
                             "set it to char")
        vocab = self.tokenize.vocab_size or 0
        if self.model.architecture == "bigram" and vocab > BIGRAM_VOCAB:
            raise ParamError("tokenize.vocab_size", f"must be at most {BIGRAM_VOCAB} for "
                             "model.architecture bigram, whose table has its square of entries",
                             f"try {BIGRAM_VOCAB}")
        fsdp = runtime.parallel == "fsdp"
        if train.optimizer == "muon" and (fsdp or runtime.shard_optimizer):
            raise ParamError("train.optimizer", "needs whole matrices on every process, which "
                             "runtime.parallel fsdp and runtime.shard_optimizer shard",
                             "set it to adamw, or use ddp without shard_optimizer")
        for name in ("hellaswag_interval", "sample_interval"):
            if getattr(train, name) is not None and fsdp:
                raise ParamError(f"train.{name}", "needs the whole model on one process, which "
                                 "runtime.parallel fsdp shards", "leave it out, or use ddp")
        return self

    @classmethod
    def load(cls, path: str | Path = "params.yaml") -> Self:
        """Reads and validates a params file. Raises ConfigError."""
        return cls.parse(read_yaml(path), source=str(path))

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str = "params") -> Self:
        """Validates ``values``; ``source`` names their file in messages. Raises ConfigError."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, source)) from None

    def fingerprint(self, contents: Iterable[tuple[str, str]]) -> str:
        """16 hex digits that name a training run.

        Covers `model`, `train`, `seed` and ``contents``: (name, sha256) of everything else that
        decides the weights (token manifest, initial weights, source files). Never `runtime`.
        """
        identity = {"model": self.model.canonical(), "train": self.train.canonical(),
                    "seed": self.seed, "contents": sorted(contents)}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
