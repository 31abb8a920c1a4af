"""The sections of params.yaml for data, evaluation and sampling; recipe.py and runtime.py have the
rest.

Sections are frozen and strict. A field without a default must stand in params.yaml. A field with a
default is a switch: absent means the default, and a default is left out of the fingerprint.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reprogpt.errors import ParamError

Count = Annotated[int, Field(ge=1, le=10**15)]
CountOrZero = Annotated[int, Field(ge=0, le=10**15)]
Positive = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]  # float32 ends at 3e38
NonNegative = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Examples = Annotated[int, Field(ge=0, le=10042)]
Corpus = Literal["shakespeare", "tinyshakespeare", "fineweb-edu", "hub", "files", "shards",
                 "addition", "calculator"]
CORPORA = get_args(Corpus)
MIN_SHARE = 0.002
"""Smallest share of a corpus in a mixture: two rows of mixture.PERIOD."""


class Section(BaseModel):
    """A frozen group of params: no unknown keys, no silent conversions."""

    # A limit on text makes pydantic refuse what is not Unicode: half a surrogate pair (JSON's
    # "\ud83d") could not be written to samples.md.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, str_max_length=10**9)

    def canonical(self) -> dict[str, Any]:
        """The values that differ from their defaults, as JSON: what a fingerprint covers."""
        return self.model_dump(mode="json", exclude_defaults=True)


class HubConfig(Section):
    """A data set on the Hugging Face Hub at a fixed commit."""

    id: str
    """owner/name"""
    config: str | None
    """Configuration (subset) of the data set; null if it has only one."""
    split: str
    text_field: str
    """Column that holds the text."""
    revision: str
    """Commit hash, 40 hex digits. Branches move; a run must not."""

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.id):
            raise ParamError("id", "must be the name of a data set, owner/name",
                             "copy one from https://huggingface.co/datasets")
        if not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ParamError("revision", "must be a commit hash of 40 hex digits, since branches "
                             "and tags move", "copy one from https://huggingface.co/datasets/"
                             f"{self.id}/commits/main")
        return self


class TaskConfig(Section):
    """Arithmetic problems of the corpora `addition` and `calculator`. See data/arithmetic.py."""

    digits: Annotated[int, Field(ge=1, le=9)] = 3
    """Maximum digits of an operand."""
    reverse: bool = False
    """Write the result from its last digit to its first."""
    scratchpad: bool = False
    """Corpus `calculator`: write the steps before the result."""
    examples: Count = 100_000
    """Number of problems, held-out ones included."""
    held_out: Share = 0.05
    """Fraction of the problems held out for testing."""
    seed: CountOrZero = 0


class CorpusConfig(Section):
    """One corpus. See data/corpora.py."""

    corpus: Corpus
    files: list[str] | None
    """Globs for the corpora `files` and `shards`: relative to the project, from `~` or absolute."""
    hub: HubConfig | None
    """The data set of corpus `hub`."""
    max_bytes: Count | None
    """Take only this many bytes of text from the start of the corpus; null for all."""
    max_documents: Count | None
    """Take only this many documents from the start of the corpus; null for all."""
    task: TaskConfig | None = None
    """The problems of the corpora `addition` and `calculator`."""
    text_field: str = "text"
    """Corpus `files`: the field of a .jsonl, .parquet or .csv file that holds the text."""

    @model_validator(mode="after")
    def _sources(self) -> Self:
        if self.corpus in ("files", "shards") and not self.files:
            raise ParamError("files", f"must name at least one glob when corpus is '{self.corpus}'",
                             "set it, e.g. files: [my/*.txt]")
        if self.corpus == "hub" and self.hub is None:
            raise ParamError("hub", "must be set when corpus is 'hub'",
                             "give id, config, split, text_field and revision")
        return self


class MixConfig(CorpusConfig):
    """One corpus of a mixture, and how often training draws from it."""

    weight: Positive
    """Its share of the training rows is this, divided by the sum of all weights."""
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """What metrics call it; null: its corpus."""
    files: list[str] | None = None
    hub: HubConfig | None = None
    max_bytes: Count | None = None
    max_documents: Count | None = None


class DownloadConfig(CorpusConfig):
    """The text to train on."""

    mix: Annotated[list[MixConfig], Field(min_length=1)] | None = None
    """Several corpora instead of `corpus`, which is then not read."""

    def corpora(self) -> Mapping[str, CorpusConfig]:
        """The corpora to download by name, in order."""
        if self.mix is None:
            return {self.corpus: self}
        return {entry.name or entry.corpus: entry for entry in self.mix}

    def weights(self) -> dict[str, float] | None:
        """The weights of ``mix`` by name; None without it."""
        if self.mix is None:
            return None
        return {entry.name or entry.corpus: entry.weight for entry in self.mix}

    @model_validator(mode="after")
    def _mixture(self) -> Self:
        if self.mix is None:
            return self
        for key in ("files", "hub", "max_bytes", "max_documents", "task"):
            if getattr(self, key) is not None:
                raise ParamError(key, "must be null beside mix, each corpus of which has its own",
                                 "move it into an entry of download.mix")
        total, names = sum(entry.weight for entry in self.mix), list(self.corpora())
        for number, entry in enumerate(self.mix):
            if entry.corpus == "shards":
                raise ParamError(f"mix.{number}.corpus", "must be a corpus of text: shards that "
                                 "others made are not mixed", "name another corpus")
            if entry.weight < MIN_SHARE * total:
                raise ParamError(f"mix.{number}.weight", f"must be at least {MIN_SHARE:g} of the "
                                 f"sum of all weights = {total:g}",
                                 f"try {math.ceil(MIN_SHARE * total * 1e6) / 1e6:g}, or leave the "
                                 "corpus out")
        if len(names) < len(self.mix):
            raise ParamError("mix", "must give each corpus a name of its own",
                             "set `name` in the entries with an equal corpus")
        return self


class TokenizeConfig(Section):
    """How text becomes shards of uint16 tokens, and which part is held out for validation."""

    encoding: Literal["gpt2", "char", "bpe"]
    """GPT-2's BPE (50,257 tokens), one token for each character of the training text, or a BPE
    trained on the training documents."""
    vocab_size: Annotated[int, Field(ge=256, le=65_535)] | None = None
    """Encoding `bpe`: tokens, the 256 bytes included; <|endoftext|> is one more."""
    shard_tokens: Annotated[int, Field(ge=1024, lt=2**31)]  # an int32 in llm.c's header
    """Tokens in one shard file; the last one has fewer."""
    split: Literal["first", "hash", "tail"]
    """Held out: the first documents, documents chosen by a seeded hash, or the end of the text."""
    val_fraction: Share | None = None
    """Fraction held out: of the documents (`hash`), or of the text (`tail`, `first`)."""
    val_tokens: Count | None = None
    """Tokens held out, at least. Give either this or val_fraction."""
    unknown: Literal["error", "drop"] = "error"
    """Encoding `char`: what to do with a held-out character that the training text lacks."""
    track: Literal["shards", "manifest"] = "shards"
    """What DVC caches: the shards, or the manifest alone, which keeps one copy of them fewer."""
    split_seed: CountOrZero = 0
    """Seed of split `hash`. Not `seed`: runs with other seeds are scored on the same text."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.encoding == "bpe" and self.vocab_size is None:
            raise ParamError("vocab_size", "must be set when encoding is 'bpe'", "e.g. 4096")
        if self.encoding != "bpe" and self.vocab_size is not None:
            raise ParamError("vocab_size", f"is for encoding 'bpe', not '{self.encoding}'",
                             "remove it, or set encoding: bpe")
        if self.encoding == "bpe" and self.val_tokens is not None:
            raise ParamError("val_tokens", "cannot be used with encoding 'bpe', whose tokens are "
                             "known only after the split", "set val_fraction instead")
        if (self.val_fraction is None) == (self.val_tokens is None):
            raise ParamError("val_fraction", "and val_tokens cannot be both set or both null",
                             "give one of the two")
        if self.split == "hash" and self.val_fraction is None:
            raise ParamError("val_fraction", "must be set when split is 'hash'", "e.g. 0.1")
        return self


class SuitesConfig(Section):
    """Additional evaluations."""

    held_out: list[str] = []
    """Globs of text files, as in download.files: loss and bits per byte of each. DVC does not
    watch them; metrics/eval.json has their checksums."""
    tasks: list[str] = []
    """Tasks and groups of lm-evaluation-harness, such as lambada_openai, piqa or arc_easy."""
    task_files: str | None = None
    """A folder with data sets of `tasks` as owner/name; the others come from the Hub."""


class EvaluateConfig(Section):
    """How the finished model is scored."""

    val_tokens: Count | None
    """Tokens of the validation split to score; null for all of it."""
    hellaswag_examples: Examples | None
    """Evenly spaced examples out of HellaSwag's 10,042; null for all, 0 for none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of HellaSwag's matrix products. Sums and the validation loss are float32."""
    suites: SuitesConfig = SuitesConfig()


class SampleConfig(Section):
    """What the finished model is asked to write."""

    prompts: Annotated[list[str], Field(min_length=1)]
    num_samples: Annotated[int, Field(ge=1, le=10_000)]
    """Samples per prompt, drawn as one batch."""
    max_new_tokens: Annotated[int, Field(ge=1, le=10**6)]
    """Tokens to generate after the prompt."""
    temperature: NonNegative
    """Divides the logits, which must stay finite; 0 picks the most likely token."""
    top_k: Count | None
    """Draw from the k most likely tokens only; null for all."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    """Draw from the smallest set of tokens with this total probability; null for all."""
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    """Above 1 makes tokens that occurred less likely (CTRL, Keskar et al., 2019); 1 is off."""
    prompts_file: str | None = None
    """A text file with one more prompt on each line. DVC does not watch it."""

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if 0 < self.temperature < 1e-3:
            raise ParamError("temperature", "must be 0 or at least 0.001", "try 0: the most likely "
                             "token each time")
        return self
