"""The switches of ModelConfig, each against an implementation that is not ours."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaMLP

from reprogpt.evaluation.scoring import Head
from reprogpt.formats import huggingface as hf
from reprogpt.generation.generate import generate
from reprogpt.model import gpt
from reprogpt.model.dropout import row_keys
from reprogpt.model.gpt import ACTIVATIONS, GPT, MLP
from reprogpt.model.loss import nll
from reprogpt.training.optimizer import build_optimizer
from tests.model.test_gpt import VOCAB, model_config, tiny
from tests.training.test_optimizer import recipe

MODERN = {"position": "rope", "qk_norm": True, "activation": "relu2", "norm": "rmsnorm",
          "embed_norm": True, "tied_head": False, "zero_init": True, "init": "fan_in",
          "logit_softcap": 15.0, "x0_skip": True, "value_embeds": True, "window": 5,
          "ngram_rows": [31, 17]}
ABLATIONS = [{"norm_position": "post"}, {"norm_position": "none"}, {"position": "none"},
             {"position": "sinusoidal"}, {"activation": "silu"}, {"n_kv_head": 2},
             {"window": 4, "long_every": 2}, MODERN | {"n_kv_head": 1}]


def stirred(**changes: object) -> GPT:
    """A tiny model none of whose weights is at a value that hides what it does."""
    model = tiny(**changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return model


def ids(rows: int = 2, columns: int = 16) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, columns), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("n_kv_head", [None, 2])
def test_rope_rmsnorm_swiglu_and_an_untied_head_are_transformers_llama(n_kv_head: int | None
                                                                       ) -> None:
    model = stirred(position="rope", norm="rmsnorm", activation="swiglu", tied_head=False,
                    bias=False, n_kv_head=n_kv_head)
    width = model.h[0].mlp.c_fc.weight.size(0)
    llama = LlamaForCausalLM(LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=width, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=n_kv_head or 4, max_position_embeddings=16,
        rms_norm_eps=1e-5, tie_word_embeddings=False, attn_implementation="eager"))
    ours = model.state_dict()
    theirs = {"model.embed_tokens.weight": ours["wte.weight"],
              "model.norm.weight": ours["ln_f.weight"], "lm_head.weight": ours["lm_head.weight"]}
    for i in range(3):
        q, k, v = ours[f"h.{i}.attn.c_attn.weight"].split(model.h[i].attn.widths)
        names = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v,
                 "self_attn.o_proj": ours[f"h.{i}.attn.c_proj.weight"],
                 "mlp.gate_proj": ours[f"h.{i}.mlp.c_gate.weight"],
                 "mlp.up_proj": ours[f"h.{i}.mlp.c_fc.weight"],
                 "mlp.down_proj": ours[f"h.{i}.mlp.c_proj.weight"],
                 "input_layernorm": ours[f"h.{i}.ln_1.weight"],
                 "post_attention_layernorm": ours[f"h.{i}.ln_2.weight"]}
        theirs |= {f"model.layers.{i}.{name}.weight": w for name, w in names.items()}
    llama.load_state_dict(theirs)
    torch.testing.assert_close(model.logits(model(ids())), llama(ids()).logits[..., :VOCAB],
                               atol=1e-5, rtol=1e-4)


def test_the_gated_layer_alone() -> None:
    ours = MLP(model_config(activation="swiglu", bias=False))
    theirs = LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=ours.c_fc.out_features))
    theirs.load_state_dict({"gate_proj.weight": ours.c_gate.weight, "up_proj.weight":
                            ours.c_fc.weight, "down_proj.weight": ours.c_proj.weight})
    x = torch.randn(2, 3, 32)
    torch.testing.assert_close(ours(x), theirs(x))


def test_qk_norm_makes_scores_blind_to_the_scale_of_q_and_k() -> None:
    model = stirred(qk_norm=True, bias=False)
    before = model(ids())
    with torch.no_grad():
        for block in model.h:
            block.attn.c_attn.weight[:64] *= 3  # q and k, not v
    torch.testing.assert_close(model(ids()), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "activation"), [
    ("gelu_tanh", lambda h: F.gelu(h, approximate="tanh")), ("gelu", F.gelu),
    ("relu2", lambda h: h.clamp(min=0) ** 2), ("silu", lambda h: h / (1 + (-h).exp()))])
def test_an_activation_is_that_of_the_layer(name: str, activation: Callable[[Tensor], Tensor]
                                            ) -> None:
    x, mlp = torch.randn(2, 3, 32), MLP(model_config(activation=name))
    torch.testing.assert_close(mlp(x), mlp.c_proj(activation(mlp.c_fc(x))))


@pytest.mark.parametrize(("name", "at_minus_two", "at_two"), [
    ("gelu", -0.0455, 1.9545), ("relu2", 0.0, 4.0), ("swiglu", -0.2384, 1.7616)])
def test_activations_by_hand(name: str, at_minus_two: float, at_two: float) -> None:
    y = ACTIVATIONS[name](torch.tensor([-2.0, 2.0]))
    torch.testing.assert_close(y, torch.tensor([at_minus_two, at_two]), atol=1e-4, rtol=0)


def test_a_softcap_in_loss_chunks_logits_and_scores_is_gemmas_formula() -> None:
    cap = 3.0
    model = stirred(logit_softcap=cap)
    with torch.no_grad():
        model.wte.weight.mul_(5)
    hidden = model(ids()).detach().requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    weight = model.head_weight.detach().double().requires_grad_()
    logits = cap * torch.tanh(exact @ weight[:VOCAB].t() / cap)
    expected = F.cross_entropy(logits.view(-1, VOCAB), ids().view(-1), reduction="sum")
    expected.backward()
    for chunk_rows in (None, 5):
        hidden.grad = model.wte.weight.grad = None
        loss = nll(hidden, model.head_weight, ids(), VOCAB, chunk_rows, cap)
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert hidden.grad is not None and model.wte.weight.grad is not None
        torch.testing.assert_close(hidden.grad.double(), exact.grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.wte.weight.grad.double(), weight.grad,
                                   atol=1e-4, rtol=1e-4)
    each = Head.of(model).nll(hidden.detach(), ids())
    assert each.sum().item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(model.logits(hidden).double(), logits, atol=1e-4, rtol=1e-4)


def test_initial_weights_with_and_without_switches() -> None:
    model = tiny(zero_init=True, tied_head=False, init="fan_in", x0_skip=True, value_embeds=True,
                 n_embd=128)
    assert model.h[1].mlp.c_proj.weight.abs().max() == model.lm_head.weight.abs().max() == 0
    assert model.h[1].mlp.c_fc.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 128), rel=.02)
    assert model.wte.weight[:VOCAB].std().item() == pytest.approx(1, rel=0.05)
    assert model.h[1].x0_mix.tolist() == [1.0, 0.0]
    assert model.h[0].attn.value_mix.tolist() == [0.5, 0.5]
    assert model.wte.weight[VOCAB:].abs().max() == 0
    assert len(list(tiny().parameters())) == len(list(tiny(position="learned").parameters()))


@pytest.mark.parametrize("switch", [{k: v} for k, v in MODERN.items()] + [MODERN] + ABLATIONS,
                         ids=str)
def test_cached_decoding_is_uncached_decoding(switch: dict[str, object]) -> None:
    model = stirred(**switch).eval()
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    kwargs = {"max_new_tokens": 10, "temperature": 0.0}
    assert (generate(model, prompts, use_cache=True, **kwargs)
            == generate(model, prompts, use_cache=False, **kwargs))


def test_all_switches_at_once_learn_and_come_back_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny(**MODERN)
    cfg = recipe(optimizer="muon", muon_lr=0.02, lr=1e-2, min_lr=0.0)
    optimizer = build_optimizer(model, cfg)
    losses = []
    for _ in range(30):
        loss = nll(model(ids()[:, :-1]), model.head_weight, ids()[:, 1:], VOCAB, 8, 15.0) / 30
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(VOCAB), abs=0.01)  # a head of zeros knows nothing
    assert losses[-1] < 1.0
    hf.save_model(tmp_path / "gpt", model, model.cfg, None)
    again, cfg_again = hf.load_model(tmp_path / "gpt")
    assert cfg_again == model.cfg
    with torch.no_grad():
        torch.testing.assert_close(again(ids()), model(ids()))
    held = sum(p.numel() for p in hf.read_weights(tmp_path / "gpt").tensors.values())
    assert model.num_parameters() == held


@pytest.mark.parametrize("switch", [{k: v} for k, v in MODERN.items()]
                         + [MODERN, {"dropout": 0.2}] + ABLATIONS, ids=str)
@pytest.mark.parametrize("chunk_rows", [None, 8])
def test_every_switch_learns_in_bfloat16_what_it_learns_in_float32(
    switch: dict[str, object], chunk_rows: int | None
) -> None:
    model, dropout_keys = stirred(**switch), row_keys(1, 2, torch.arange(2))

    def gradient(low: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):  # the forward pass alone
            x = model(ids(), dropout_keys)
            loss = nll(x, model.head_weight, ids(), VOCAB, chunk_rows, model.logit_softcap)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    rough, exact = gradient(True), gradient(False)
    assert F.cosine_similarity(rough, exact, 0) > 0.995
    assert rough.norm().item() == pytest.approx(exact.norm().item(), rel=0.03)


@pytest.mark.parametrize(("at", "sites"), [("embedding", {0}), ("attention", {1, 4, 7}),
                                           ("residual", {2, 3, 5, 6, 8, 9})])
def test_dropout_at_one_site_is_dropout_with_no_keys_for_the_others(
    at: str, sites: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropout_keys = row_keys(1, 2, torch.arange(2))
    alone = stirred(dropout=0.5, dropout_at=at)(ids(), dropout_keys)
    site_keys = gpt.site_keys
    monkeypatch.setattr(gpt, "site_keys", lambda keys, site: site_keys(keys, site)
                        if site in sites else None)
    torch.testing.assert_close(alone, stirred(dropout=0.5)(ids(), dropout_keys))
    assert not torch.equal(alone, stirred()(ids()))
