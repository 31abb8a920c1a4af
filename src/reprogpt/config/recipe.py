"""The sections `model` and `train`: with the seed and the data, all that decides the weights."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reprogpt.config.sections import Count, Counts0, Fraction, NonNegative, Positive, Section

MOST_PARAMETERS = 10**13
"""More is a slip of the finger: no machine would say so, it would only run out of memory."""


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
    def _rungs_have_no_switches(self) -> Self:
        if self.architecture == "gpt":
            return self
        fields = type(self).model_fields
        switched = [name for name, field in fields.items()
                    if not field.is_required() and getattr(self, name) != field.default]
        if switched:
            raise ValueError(f"{switched[0]}||is a switch of model.architecture gpt, which "
                             f"{self.architecture} has not||leave it out")
        if self.dropout and self.architecture != "dropout":
            raise ValueError(f"dropout||must be 0.0: {self.architecture} drops nothing||set it to "
                             "0.0, or model.architecture to dropout")
        if not self.bias:
            raise ValueError("bias||must be true: the lecture's rungs have theirs||set it to true, "
                             "or model.architecture to gpt")
        return self

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
    def _used(self) -> Self:
        if self.optimizer == "adamw":
            for name in ("muon_lr", "embed_lr", "head_lr", "scalar_lr"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}||is read by optimizer muon alone||leave it out, or "
                                     "set train.optimizer to muon")
        if self.schedule != "wsd" and self.decay_fraction is not None:
            raise ValueError("decay_fraction||is read by schedule wsd alone||leave it out, or set "
                             "train.schedule to wsd")
        return self

    @model_validator(mode="after")
    def _schedule(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr||must be at most lr = {self.lr}||try {self.lr / 10:g}")
        if self.max_steps and self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps||must be below max_steps = {self.max_steps}"
                             f"||try {self.max_steps // 10}")
        return self
