"""The run's parameters: typed sections, checked once at the border, frozen ever after.

``Config.load("params.yaml")`` either returns a whole, valid configuration or raises one
:class:`ConfigError` whose message is a line a user can act on: file, key, value, rule, fix.
Past this border every function takes its own section (``cfg.model``), never the whole.

A field without a default must be spelled out in params.yaml. A field with a default is a
*switch*: absent means off, and an off switch is left out of the fingerprint, so that adding a
new one to this file changes no finished run.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reprogpt.explain import explain
from reprogpt.params_file import ConfigError, merge, read_yaml

__all__ = ["Config", "ConfigError", "merge", "read_yaml"]

Count = Annotated[int, Field(ge=1)]
Counts0 = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


CORPORA = ("shakespeare", "tinyshakespeare", "fineweb-edu", "hub", "files", "shards", "addition",
           "calculator")
"""What `download.corpus` may name: corpora.py, adopt.py and tasks.py."""
SAMPLES_BYTES = 16 << 30
"""What the samples may keep in memory: as much as a common GPU, or a laptop, has."""
ARCHITECTURES = ("gpt", "bigram", "average", "head", "multihead", "feedforward", "blocks",
                 "residual", "layernorm", "dropout")
"""What `model.architecture` may name: architectures.py."""


MOST_PARAMETERS = 10**13
"""More is a slip of the finger: no machine would say so, it would only run out of memory."""


class Section(BaseModel):
    """A frozen group of params: no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def canonical(self) -> dict[str, Any]:
        """The values that make this section what it is, switches that are off left out."""
        return self.model_dump(mode="json", exclude_defaults=True)


class HubConfig(Section):
    """A data set on the Hugging Face Hub, pinned."""

    id: str
    """owner/name"""
    config: str | None
    """The data set's configuration (subset), or null for its only one."""
    split: str
    text_field: str
    """The column that holds the text."""
    revision: str
    """A commit hash: branches move, runs must not."""

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ValueError("revision||must be a commit hash of 40 hex digits, since branches and "
                             "tags move||copy one from https://huggingface.co/datasets/"
                             f"{self.id}/commits/main")
        return self


class TaskConfig(Section):
    """The problems of a generated corpus. See tasks.py."""

    digits: Annotated[int, Field(ge=1, le=9)] = 3
    """Of the operands, at most."""
    reverse: bool = False
    """Write the result from its last digit to its first."""
    scratchpad: bool = False
    """Corpus `calculator`: the steps before the result."""
    examples: Count = 100_000
    """Problems, those held out included."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The fraction of them that is for testing."""
    seed: Counts0 = 0


class DownloadConfig(Section):
    """Which text. See corpora.py."""

    corpus: str
    files: list[str] | None
    """Globs for the corpora `files` and `shards`, relative to the project."""
    hub: HubConfig | None
    max_bytes: Count | None
    """Take only the first part of the corpus: bytes of text, or null for all of it."""
    max_documents: Count | None
    task: TaskConfig | None = None
    """Corpora `addition` and `calculator`: which problems."""
    text_field: str = "text"
    """Corpus `files`: the field of a .jsonl, .parquet or .csv file that holds the text."""

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if self.corpus in ("files", "shards") and not self.files:
            raise ValueError("files||must name at least one glob when corpus is "
                             f"'{self.corpus}'||set it, e.g. files: [my/*.txt]")
        if self.corpus == "hub" and self.hub is None:
            raise ValueError("hub||must be set when corpus is 'hub'||give id, config, split, "
                             "text_field and revision")
        return self


class TokenizeConfig(Section):
    """How text becomes uint16 shards, and which of it is held out."""

    encoding: Literal["gpt2", "char"]
    shard_tokens: Annotated[int, Field(ge=1024)]
    split: Literal["first", "hash", "tail"]
    """Which part is held out: the first documents in order, documents by a seeded hash, or the
    tail of the text."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Held out: a fraction of the documents (`hash`) or of the text (`tail`, `first`)..."""
    val_tokens: Count | None = None
    """...or at least this many tokens. Exactly one of the two is given."""
    unknown: Literal["error", "drop"] = "error"
    """Encoding `char`: what a held-out character that training never saw becomes."""
    track: Literal["shards", "manifest"] = "shards"
    split_seed: Counts0 = 0
    """Of the split `hash`: not `seed`, so that runs of every seed are scored on the same text."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.val_fraction is None) == (self.val_tokens is None):
            raise ValueError("val_fraction||and val_tokens cannot be both set or both null"
                             "||give one of the two")
        if self.split == "hash" and self.val_fraction is None:
            raise ValueError("val_fraction||must be set when split is 'hash'||e.g. 0.1")
        return self


class ModelConfig(Section):
    """The network. The defaults of every switch are GPT-2's."""

    architecture: str
    """`gpt` (model.py), or the name of one of the lecture's rungs (rungs.py)."""
    n_layer: Count
    n_head: Count
    n_embd: Count
    block_size: Count
    """T: the longest context, in tokens."""
    dropout: Fraction
    bias: bool
    init_from: Annotated[str, Field(min_length=1)] | None
    """Start from these weights: a model directory, or a Hub id such as gpt2."""
    position: Literal["learned", "rope"] = "learned"
    """A table added to the embedding, or a rotation of q and k (Su et al., 2021)."""
    rope_base: Positive = 10000.0
    qk_norm: bool = False
    """q and k of every head divided by their root mean square, so that no score explodes."""
    activation: Literal["gelu_tanh", "gelu", "relu2", "swiglu"] = "gelu_tanh"
    """swiglu is gated: its width is 8/3 n_embd, so that the parameters stay as many."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    embed_norm: bool = False
    """Normalize the embedding before the first block."""
    tied_head: bool = True
    """The output matrix is the token embedding."""
    zero_init: bool = False
    """Projections into the residual stream, and a head of its own, start as 0."""
    init: Literal["gpt2", "fan_in"] = "gpt2"
    """N(0, 0.02) everywhere, or torch's scale: 1 / sqrt(3 fan-in), embeddings N(0, 1)."""
    logit_softcap: Positive | None = None
    """Logits become cap * tanh(logits / cap) (Gemma 2)."""
    x0_skip: bool = False
    """Every block sees a learned mix of its input and the embedding."""
    value_embeds: bool = False
    """The first and last layers mix a token's own learned vector into its values."""
    window: Count | None = None
    """A position sees this many positions, itself among them; null for all before it."""

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        if self.position == "rope" and self.n_embd // self.n_head % 2:
            raise ValueError("position||'rope' turns pairs of channels and needs an even head size"
                             f", not {self.n_embd // self.n_head}||change n_head or n_embd")
        return self

    @model_validator(mode="after")
    def _size(self) -> Self:
        parameters = 12 * self.n_layer * self.n_embd**2  # of a block: Kaplan et al., 2020
        if parameters > MOST_PARAMETERS:
            raise ValueError(f"n_layer||must make at most {MOST_PARAMETERS:.0e} parameters, and 12 "
                             f"* n_layer * n_embd^2 is {parameters:.0e}||lower it, or n_embd")
        return self

    @model_validator(mode="after")
    def _heads(self) -> Self:
        if self.n_embd % self.n_head:
            near = max(1, round(self.n_embd / self.n_head)) * self.n_head
            raise ValueError(f"n_embd||must be a multiple of n_head = {self.n_head}||try {near}")
        return self


class BatchRampConfig(Section):
    """A batch that grows linearly, as GPT-3's did. See batch_sizes.py."""

    start_tokens: Count
    """Tokens of the first step, at most batch_tokens."""
    tokens: Count
    """Tokens after which a batch has its full size: GPT-3's 4 to 12 billion."""


class TrainConfig(Section):
    """The recipe."""

    max_steps: Annotated[int, Field(ge=0, lt=2**40)]
    batch_tokens: Count
    """Tokens in one optimizer step, over all processes and micro-steps."""
    batch_ramp: BatchRampConfig | None = None
    """Start with a smaller batch than batch_tokens."""
    lr: Positive
    min_lr: NonNegative
    warmup_steps: Counts0
    weight_decay: NonNegative
    beta1: Fraction
    beta2: Fraction
    grad_clip: NonNegative
    """Clip the gradient's global norm to this; 0 clips nothing."""
    schedule: Literal["cosine", "constant", "linear", "wsd"]
    optimizer: Literal["adamw", "muon"]
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"]
    order: Literal["shuffled", "sequential"]
    eval_interval: Count
    val_tokens: Count
    """Tokens of the validation split scored every eval_interval steps: the same ones always."""
    log_interval: Count
    keep: Literal["last", "best"]
    """Which weights become models/gpt: the last, or the best by validation loss."""
    deterministic: bool
    """The same bytes of weights from the same params on the same machine and topology."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Schedule wsd: the last part of the run over which lr falls to min_lr; null for 0.2."""
    eps: Positive = 1e-8
    """Adam's epsilon."""
    muon_lr: Positive | None = None
    """Optimizer muon: the rate of the hidden matrices, scaled by sqrt(rows / columns) where that
    is above 1. null: train.lr, scaled to the size of AdamW's updates (Liu et al., 2025)."""
    muon_momentum: Fraction = 0.95
    embed_lr: Positive | None = None
    """Optimizer muon: the rate of the embeddings, by AdamW and undecayed; null for train.lr."""
    head_lr: Positive | None = None
    """The same of the head, where it is not tied..."""
    scalar_lr: Positive | None = None
    """...and of gains, biases and other vectors."""
    max_loss_spike: Annotated[float, Field(gt=1)] | None = None
    """Stop when a step's loss exceeds its own running mean by this factor."""
    hellaswag_interval: Count | None = None
    """Score a fixed subset of HellaSwag every so many steps, into metrics/train_hellaswag.csv."""
    hellaswag_examples: Annotated[int, Field(ge=1, le=10042)] = 200
    """How many, evenly spaced, hellaswag_interval scores."""
    sample_interval: Count | None = None
    """Write samples every so many steps, into metrics/train_samples.md."""

    @model_validator(mode="after")
    def _schedule(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr||must be at most lr = {self.lr}||try {self.lr / 10:g}")
        if self.max_steps and self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps||must be below max_steps = {self.max_steps}"
                             f"||try {self.max_steps // 10}")
        return self


class SuitesConfig(Section):
    """Evaluations of one's own."""

    held_out: list[str] = []
    """Globs of text files, relative to the project: loss and bits per byte of each. DVC does not
    watch them; their checksums stand in metrics/eval.json."""


class EvaluateConfig(Section):
    """What the finished model is measured by."""

    val_tokens: Count | None
    """Tokens of the validation split to score; null for all of it."""
    hellaswag_examples: Annotated[int, Field(ge=0, le=10042)] | None
    """Evenly spaced examples out of HellaSwag's 10,042; null for all, 0 for none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of HellaSwag's matrix products; sums are float32 in both. The loss is always float32."""
    suites: SuitesConfig = SuitesConfig()
    """More evaluations, off unless named."""


class SampleConfig(Section):
    """What the finished model is asked to write."""

    prompts: Annotated[list[str], Field(min_length=1)]
    num_samples: Count
    """Samples per prompt; all are drawn at once."""
    max_new_tokens: Count
    temperature: NonNegative
    """0 is greedy."""
    top_k: Count | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    repetition_penalty: Positive = 1.0
    """Above 1 makes tokens that were there less likely (CTRL); 1 is off."""
    prompts_file: str | None = None
    """A text file with one more prompt on each line. DVC does not watch it."""


class RuntimeConfig(Section):
    """Where and how it runs. Nothing here may change a result beyond rounding."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
                                 title="auto, cpu, cuda, cuda:N or mps")]
    nproc: Count | Literal["auto"]
    """Training processes: auto is one per GPU, or one."""
    micro_batch: Count | Literal["auto"]
    """At most this many rows of block_size tokens go through the model at a time."""
    compile: bool | Literal["auto"]
    workers: Count | Literal["auto"]
    """Tokenizing processes: auto is one per core."""
    encoder: Literal["auto", "tiktoken", "riptoken"] = "auto"
    """auto is riptoken where it is installed and gives tiktoken's ids on a sample."""
    tokenize_executor: Literal["local", "datatrove", "slurm"] = "local"
    """Where pieces are tokenized: processes of this machine (`workers`), tasks of datatrove's local
    executor, or of its Slurm executor; see docs/data.md. The shards are the same."""
    tokenize_tasks: Annotated[int, Field(ge=1, le=1000)] = 16
    """Tasks of the executors datatrove and slurm."""
    slurm_partition: str | None = None
    """The partition that tokenize_executor slurm submits to."""
    slurm_time: Annotated[str, Field(pattern=r"^[0-9:-]+$")] = "04:00:00"
    """The most time that one task of tokenize_executor slurm may take."""
    checkpoint_interval: Count
    """Steps between checkpoints: what a kill can cost."""
    launcher: Literal["torchrun", "slurm"]
    resume: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$",
                                 title="16 hex digits, the name of a folder in runs/")] | None
    """Continue the unfinished run with this fingerprint, under edited code."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Several processes: ddp gives each a whole model, fsdp cuts weights, gradients and optimizer
    state up among them, for models that do not fit otherwise."""
    shard_optimizer: bool = False
    """Under ddp: cut AdamW's state up among the processes."""
    keep_checkpoints: Count = 2
    """How many of the last checkpoints of a run stay on disk."""
    max_restarts: Counts0 = 3
    """How often the group of processes is started again after one of it dies."""
    timeout: Positive = 600.0
    """Seconds after which a process that the others wait for counts as hung."""
    eval_tokens: Count | Literal["auto"] = "auto"
    """At most this many tokens go through the model at a time when it is evaluated."""
    verify: Literal["sampled", "full"] = "sampled"
    """How much of each shard is checked against its checksum before training opens it."""

    @model_validator(mode="after")
    def _partition(self) -> Self:
        if self.tokenize_executor == "slurm" and not self.slurm_partition:
            raise ValueError("slurm_partition||must be set when tokenize_executor is 'slurm'"
                             "||name a partition that `sinfo` lists")
        return self


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
