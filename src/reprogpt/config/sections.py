"""The sections of params.yaml that bring text in, measure and run; recipe.py has the other two.

Frozen, typed, and strict: a field without a default must be spelled out in params.yaml, one with a
default is a *switch*, off unless it is there.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1, le=2**62)]  # a sum of two still fits 64 bits
Counts0 = Annotated[int, Field(ge=0, le=2**62)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A frozen group of params: no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="after")
    def _utf8(self) -> Self:
        """What a file can hold: a run writes its params down, and samples with their prompts."""
        for name, value in self:
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and re.search("[\ud800-\udfff]", text):
                    raise ValueError(f"{name}||must be text that UTF-8 can hold, without half a "
                                     "surrogate pair||write the character itself, or \\U and its "
                                     "8 hex digits")
        return self

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
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.id):
            raise ValueError("id||must be the name of a data set, owner/name||copy one from "
                             "https://huggingface.co/datasets")
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
    """Globs for the corpora `files` and `shards`: relative to the project, from `~` or absolute."""
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
    shard_tokens: Annotated[int, Field(ge=1024, le=2**62)]
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


class SuitesConfig(Section):
    """Evaluations of one's own."""

    held_out: list[str] = []
    """Globs of text files, as in download.files: loss and bits per byte of each. DVC does not
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
