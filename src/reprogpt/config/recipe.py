"""The sections `model` and `train`: with the seed and the data, they decide the weights."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from reprogpt.config.messages import show
from reprogpt.config.sections import Count, CountOrZero, Fraction, NonNegative, Positive, Section
from reprogpt.errors import ParamError

Architecture = Literal["gpt", "bigram", "average", "head", "multihead", "feedforward", "blocks",
                       "residual", "layernorm", "dropout"]
ARCHITECTURES = get_args(Architecture)
Size = Annotated[int, Field(ge=1, le=2**20)]
BatchTokens = Annotated[int, Field(ge=1, le=2**30)]


class ModelConfig(Section):
    """The network. Every default is GPT-2's."""

    architecture: Architecture
    """`gpt` (model/gpt.py), or a model of lecture 1 (model/lecture1/)."""
    n_layer: Size
    """Transformer blocks."""
    n_head: Size
    """Attention heads in a block; head size is n_embd / n_head."""
    n_embd: Size
    """C: channels of the residual stream."""
    block_size: Size
    """T: maximum context length, in tokens."""
    dropout: Fraction
    """Probability of dropping a value, while training."""
    bias: bool
    """Biases in Linear and LayerNorm."""
    init_from: Annotated[str, Field(min_length=1)] | None
    """Initial weights: a model directory, or a Hub id such as gpt2; null for random ones."""
    dropout_at: Literal["all", "embedding", "attention", "residual"] = "all"
    """Where: on the embeddings, the attention weights, and what is added to the residual stream,
    or on one of them."""
    n_kv_head: Size | None = None
    """Heads of k and v, each shared by n_head / n_kv_head heads of q: grouped-query attention
    (Ainslie et al., 2023); null for n_head."""
    position: Literal["learned", "rope", "sinusoidal", "none"] = "learned"
    """A learned embedding per position, rotary embeddings of q and k (Su et al., 2021), sines and
    cosines added to token embeddings times sqrt(n_embd) (Vaswani et al., 2017), or nothing."""
    rope_base: Positive = 10000.0
    """Base of RoPE's frequencies."""
    qk_norm: bool = False
    """RMS-normalize q and k of every head, which bounds the attention scores."""
    activation: Literal["gelu_tanh", "gelu", "relu2", "silu", "swiglu"] = "gelu_tanh"
    """swiglu is gated: its hidden width is 8/3 n_embd, for the same number of parameters."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """rmsnorm divides by the root mean square and subtracts no mean (Zhang and Sennrich, 2019)."""
    norm_position: Literal["pre", "post", "none"] = "pre"
    """Where a block normalizes: the inputs of attention and MLP, or the residual stream after each
    (Vaswani et al., 2017). post and none have no last norm either."""
    embed_norm: bool = False
    """Normalize the embeddings before the first block."""
    tied_head: bool = True
    """The output matrix is the token embedding."""
    zero_init: bool = False
    """Initialize projections into the residual stream, and an untied head, with 0."""
    init: Literal["gpt2", "fan_in"] = "gpt2"
    """N(0, 0.02) everywhere, or torch's scale: 1 / sqrt(3 fan-in), embeddings N(0, 1)."""
    logit_softcap: Positive | None = None
    """Logits become cap * tanh(logits / cap) (Gemma 2)."""
    x0_skip: bool = False
    """Every block's input is a learned mix of the residual stream and the embeddings."""
    value_embeds: bool = False
    """Value embeddings: the first and last layers add a learned vector per token to v."""
    ngram_rows: Annotated[list[Count], Field(min_length=1, max_length=7)] | None = None
    """Embeddings of the last two, three, ... tokens, added to the token embedding: the number of
    rows of each table, which n-grams share by a hash (Huang et al., 2025)."""
    window: Count | None = None
    """Sliding window: a position attends to this many positions, itself included; null for all."""
    long_every: Count | None = None
    """Long-short windows: every such layer, counted from the first, attends to all positions."""

    @property
    def kv_heads(self) -> int:
        """n_kv_head, or n_head where it is null."""
        return self.n_kv_head or self.n_head

    def dropout_of(self, site: str) -> float:
        """The probability of dropout at one of the sites that dropout_at names."""
        return self.dropout if self.dropout_at in ("all", site) else 0.0

    @property
    def kv_width(self) -> int:
        """Channels of k, and of v, over all their heads."""
        return self.n_embd // self.n_head * self.kv_heads

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.n_embd % self.n_head:
            near = max(1, round(self.n_embd / self.n_head)) * self.n_head
            raise ParamError("n_embd", f"must be a multiple of n_head = {self.n_head}",
                             f"try {near}")
        if self.n_head % self.kv_heads:
            near = max(n for n in range(1, self.n_head + 1)
                       if self.n_head % n == 0 and n <= self.kv_heads)
            raise ParamError("n_kv_head", f"must divide n_head = {self.n_head}", f"try {near}")
        if self.long_every and not self.window:
            raise ParamError("long_every", "excepts layers from window, which is null",
                             "set model.window, or leave it out")
        if self.position == "rope" and self.n_embd // self.n_head % 2:
            raise ParamError("position", "'rope' rotates pairs of channels and needs an even head "
                             f"size, not {self.n_embd // self.n_head}", "change n_head or n_embd")
        if self.architecture != "gpt":
            fixed = {name: f.default for name, f in type(self).model_fields.items()
                     if not f.is_required()} | {"bias": True}
            if self.architecture != "dropout":
                fixed["dropout"] = 0.0
            for name, value in fixed.items():
                if getattr(self, name) != value:
                    raise ParamError(name, f"must be {show(value)} for architecture "
                                     f"{self.architecture}, a model of lecture 1",
                                     f"set it to {show(value)}, or model.architecture to gpt")
        return self


class BatchRampConfig(Section):
    """A batch size that grows linearly, as GPT-3's did (Brown et al., 2020, appendix B)."""

    start_tokens: BatchTokens
    """Tokens in the first step."""
    tokens: Count
    """Training tokens after which a step has batch_tokens; 4 to 12 billion for GPT-3."""


class TrainConfig(Section):
    """The training recipe."""

    max_steps: CountOrZero
    """Optimizer steps."""
    max_seconds: Positive | None = None
    """Training seconds (evaluations and checkpoints not counted) after which the run ends, if it
    has not made max_steps by then. The schedule follows the clock. null: no limit."""
    batch_tokens: BatchTokens
    """Tokens in one optimizer step, over all processes and micro-steps."""
    batch_ramp: BatchRampConfig | None = None
    """Start with a smaller batch than batch_tokens."""
    lr: Positive
    """Peak learning rate."""
    min_lr: NonNegative
    """Learning rate at the end of the schedule."""
    warmup_steps: CountOrZero
    """Steps of linear warm-up to lr."""
    weight_decay: NonNegative
    """Decoupled weight decay, on matrices and embeddings only."""
    beta1: Fraction
    """Decay of Adam's first moment."""
    beta2: Fraction
    """Decay of Adam's second moment."""
    grad_clip: NonNegative
    """Maximum norm of the gradient; 0 for no clipping."""
    schedule: Literal["cosine", "constant", "linear", "wsd"]
    """Decay of lr to min_lr after warm-up; wsd (warm-up, stable, decay) decays at the end only."""
    optimizer: Literal["adamw", "muon"]
    """muon updates the hidden matrices by Muon and all else by AdamW (Jordan et al., 2024)."""
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"]
    """Precision of matrix products; weights stay float32. auto is bfloat16 where it is native."""
    order: Literal["shuffled", "sequential"]
    """Order of the training windows: a new permutation each epoch, or that of the text."""
    eval_interval: Count
    """Steps between measurements of the validation loss."""
    val_tokens: Count
    """Tokens of the validation split scored each time, always the same ones."""
    log_interval: Count
    """Steps between lines of metrics/train.csv."""
    keep: Literal["last", "best"]
    """The weights saved to models/gpt: the last, or those with the best validation loss."""
    deterministic: bool
    """Bit-identical weights from the same params on the same machine and topology."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Schedule wsd: fraction of the run over which lr falls to min_lr; null for 0.2."""
    eps: Positive = 1e-8
    """Adam's epsilon."""
    muon_lr: Positive | None = None
    """Learning rate of Muon's matrices, multiplied by max(1, sqrt(rows / columns)). null: train.lr,
    scaled to the update size of AdamW (Liu et al., 2025)."""
    muon_momentum: Fraction = 0.95
    """Decay of Muon's momentum (Nesterov's)."""
    embed_lr: Positive | None = None
    """Optimizer muon: learning rate of the embeddings (AdamW, no decay); null for train.lr."""
    head_lr: Positive | None = None
    """Optimizer muon: learning rate of an untied head; null for train.lr."""
    scalar_lr: Positive | None = None
    """Optimizer muon: learning rate of gains, biases and other vectors; null for train.lr."""
    max_loss_spike: Annotated[float, Field(gt=1, le=1e30)] | None = None
    """Stop when the loss exceeds this multiple of its running mean; null for never."""
    hellaswag_interval: Count | None = None
    """Steps between HellaSwag scores, written to metrics/train_hellaswag.csv; null for none."""
    hellaswag_examples: Annotated[int, Field(ge=1, le=10042)] = 200
    """Evenly spaced examples for hellaswag_interval."""
    sample_interval: Count | None = None
    """Steps between samples, written to metrics/train_samples.md; null for none."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, section, value in (("muon_lr", "optimizer", "muon"),
                                     ("embed_lr", "optimizer", "muon"),
                                     ("head_lr", "optimizer", "muon"),
                                     ("scalar_lr", "optimizer", "muon"),
                                     ("decay_fraction", "schedule", "wsd")):
            if getattr(self, name) is not None and getattr(self, section) != value:
                raise ParamError(name, f"is read by {section} {value} only",
                                 f"leave it out, or set train.{section} to {value}")
        if self.min_lr > self.lr:
            raise ParamError("min_lr", f"must be at most lr = {self.lr}", f"try {self.lr / 10:g}")
        if self.max_steps and self.warmup_steps >= self.max_steps:
            raise ParamError("warmup_steps", f"must be below max_steps = {self.max_steps}",
                             f"try {self.max_steps // 10}")
        return self
