"""The model directory, with transformers as the oracle."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from reprogpt.config import ModelConfig
from reprogpt.evaluation.validation import validation_loss
from reprogpt.formats import huggingface as hf
from reprogpt.generation.generate import generate
from reprogpt.model.gpt import GPT
from reprogpt.model.lecture1.models import RUNGS
from reprogpt.model.loss import nll
from reprogpt.model.registry import build_model
from reprogpt.tokens.tokenizers import CharTokenizer, gpt2_tokenizer, load_tokenizer
from tests.small_models import model_config, random_ids, random_model

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)


def config(**changes) -> ModelConfig:
    base = {"architecture": "gpt", "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12,
            "dropout": 0.0, "bias": True, "init_from": None}
    return ModelConfig(**{**base, **changes})


def model_of(cfg: ModelConfig, vocab_size: int = 70, seed: int = 0) -> GPT:
    model = build_model(cfg, vocab_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():  # every tensor counts: nothing left at 0 or 1
            p.normal_(0.0, 0.1, generator=generator)
    return model


def ids(vocab_size: int, T: int, rows: int = 2) -> torch.Tensor:
    return torch.randint(vocab_size, (rows, T), generator=torch.Generator().manual_seed(1))


def theirs(folder: Path):
    return transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(n_layer=st.integers(1, 3), n_head=st.sampled_from([1, 2, 3]), width=st.integers(1, 5),
       block=st.integers(2, 20), vocab=st.integers(2, 140), bias=st.booleans())
def test_transformers_computes_the_same_logits_and_gradients(
        tmp_path_factory, n_layer, n_head, width, block, vocab, bias):
    folder = tmp_path_factory.mktemp("model") / "gpt"
    cfg = config(n_layer=n_layer, n_head=n_head, n_embd=4 * width * n_head, block_size=block,
                 bias=bias)
    model = model_of(cfg, vocab)
    hf.save_model(folder, model, cfg, None)
    other = theirs(folder)
    idx = ids(vocab, block)
    torch.testing.assert_close(model.logits(model(idx)), other(idx).logits, atol=1e-5, rtol=1e-5)

    targets = idx[:, 1:]
    nll(model(idx)[:, :-1], model.head_weight, targets, vocab).backward()
    logits = other(idx).logits[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum").backward()
    block0 = other.transformer.h[0]
    for ours, others in [
        (model.h[0].attn.c_attn.weight.grad, block0.attn.c_attn.weight.grad.t()),
        (model.h[0].mlp.c_proj.weight.grad, block0.mlp.c_proj.weight.grad.t()),
        (model.h[0].ln_1.weight.grad, block0.ln_1.weight.grad),
        (model.wpe.weight.grad, other.transformer.wpe.weight.grad),
        (model.wte.weight.grad[:vocab], other.transformer.wte.weight.grad),
    ]:
        scale = others.abs().max().clamp(min=1.0).item()
        torch.testing.assert_close(ours, others, atol=1e-5 * scale, rtol=1e-4)


def test_import_then_export_gives_the_same_bits(tmp_path):
    other = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=16, n_positions=12, vocab_size=70))
    other.save_pretrained(tmp_path / "theirs")
    model, cfg = hf.load_model(tmp_path / "theirs")
    assert cfg.block_size == 12
    assert cfg.dropout == 0.1
    hf.save_model(tmp_path / "ours", model, cfg, None)
    before = load_file(tmp_path / "theirs/model.safetensors")
    after = load_file(tmp_path / "ours/model.safetensors")
    assert before.keys() - {"lm_head.weight"} == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in after)
    idx = ids(70, 12)
    torch.testing.assert_close(model.logits(model(idx)), other.eval()(idx).logits,
                               atol=1e-5, rtol=1e-5)


def test_openais_own_file_has_no_prefix_and_stores_the_triangle(tmp_path):
    cfg = config()
    model = model_of(cfg)
    hf.save_model(tmp_path / "a", model, cfg, None)
    tensors = {k.removeprefix("transformer."): v
               for k, v in load_file(tmp_path / "a/model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
    save_file(tensors, tmp_path / "a/model.safetensors", metadata={"format": "pt"})
    (tmp_path / "a/SHA256SUMS").unlink()
    loaded, _ = hf.load_model(tmp_path / "a")
    assert all(torch.equal(a, b) for a, b in
               zip(loaded.parameters(), padded_zero(model).parameters()))


def padded_zero(model: GPT) -> GPT:
    with torch.no_grad():
        model.wte.weight[model.vocab_size:] = 0
    return model


@pytest.mark.parametrize("bias", [True, False])
def test_round_trip_is_exact_and_files_hold_no_padding(tmp_path, bias):
    cfg = config(bias=bias)
    model = padded_zero(model_of(cfg))
    hf.save_model(tmp_path / "m", model, cfg, None)
    loaded, loaded_cfg = hf.load_model(tmp_path / "m")
    assert loaded_cfg == cfg
    for (name, a), (_, b) in zip(model.named_parameters(), loaded.named_parameters()):
        assert torch.equal(a, b), name
    assert load_file(tmp_path / "m/model.safetensors")["transformer.wte.weight"].shape == (70, 16)


def test_the_same_weights_give_the_same_bytes(tmp_path):
    cfg = config()
    for name in ("a", "b"):
        hf.save_model(tmp_path / name, model_of(cfg), cfg, None)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_saving_replaces_and_never_writes_into_a_linked_file(tmp_path):
    cfg = config()
    hf.save_model(tmp_path / "m", model_of(cfg, seed=0), cfg, None)
    (tmp_path / "cached").hardlink_to(tmp_path / "m/model.safetensors")
    before = (tmp_path / "cached").read_bytes()
    (tmp_path / "m/stale").touch()
    hf.save_model(tmp_path / "m", model_of(cfg, seed=1), cfg, None)
    assert (tmp_path / "cached").read_bytes() == before
    assert (tmp_path / "m/model.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cached", "m"]
    assert not (tmp_path / "m/stale").exists()


def test_a_failed_save_leaves_the_old_model(tmp_path):
    cfg = config()
    hf.save_model(tmp_path / "m", model_of(cfg), cfg, None)
    before = (tmp_path / "m/model.safetensors").read_bytes()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no tokenizer"):
        hf.save_model(tmp_path / "m", model_of(cfg, seed=1), cfg, tmp_path / "empty")
    assert (tmp_path / "m/model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "m"]


def test_the_tokenizer_travels_and_char_models_have_no_end_of_text(tmp_path):
    tokenizer = CharTokenizer("abc\n")
    tokenizer.save(tmp_path / "tok")
    cfg = config()
    hf.save_model(tmp_path / "m", model_of(cfg, tokenizer.n_vocab), cfg, tmp_path / "tok")
    assert (tmp_path / "m/char_vocab.json").is_file()
    saved = json.loads((tmp_path / "m/config.json").read_text())
    assert saved["eos_token_id"] is None
    out = theirs(tmp_path / "m").generate(torch.tensor([[1, 2]]), max_new_tokens=3,
                                          do_sample=False, pad_token_id=0)
    assert out.shape == (1, 5)


def test_block_size_may_be_cropped_but_not_grown(tmp_path):
    cfg = config()
    model = model_of(cfg)
    hf.save_model(tmp_path / "m", model, cfg, None)
    short = build_model(config(block_size=5), 70)
    hf.load_weights(short, tmp_path / "m")
    idx = ids(70, 5)
    torch.testing.assert_close(short(idx), model(idx))
    with pytest.raises(ValueError, match="block_size=13 must be at most 12"):
        hf.load_weights(build_model(config(block_size=13), 70), tmp_path / "m")


def test_loading_into_another_shape_names_the_param(tmp_path):
    cfg = config()
    hf.save_model(tmp_path / "m", model_of(cfg), cfg, None)
    for changes, message in [({"n_layer": 3}, "model.n_layer=3 must be 2"),
                             ({"bias": False}, "model.bias=false must be true"),
                             ({"n_embd": 32}, "model.n_embd=32 must be 16")]:
        with pytest.raises(ValueError, match=message) as caught:
            hf.load_weights(build_model(config(**changes), 70), tmp_path / "m")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"tokenize\.encoding gives 65 tokens"):
        hf.load_weights(build_model(cfg, 65), tmp_path / "m")


def test_what_cannot_be_loaded_is_refused_in_a_line(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        hf.load_model(tmp_path)
    good = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 4,
            "vocab_size": 8}
    for changes, message in [({"model_type": "llama"}, "model_type='llama'"),
                             ({"activation_function": "relu"}, "activation_function='relu'"),
                             ({"n_inner": 5}, "n_inner=5"),
                             ({"n_embd": None}, "n_embd=null must be a whole number"),
                             ({}, "pickled weights")]:
        (tmp_path / "config.json").write_text(json.dumps(good | changes))
        with pytest.raises(ValueError, match=message) as caught:
            hf.load_model(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [
    ("[]", "must hold a mapping"), ("[" * 10**5, "is damaged"),
    ('{"model_type": "reprogpt"}', "config.json"),
    ('{"model_type": "reprogpt", "reprogpt": {"n_layer": 1}}', "config.json"),
])
def test_a_damaged_config_is_told_in_a_line(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        hf.read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_tensors_of_another_shape_than_the_config_says_are_refused(tmp_path):
    cfg = config()
    hf.save_model(tmp_path / "m", model_of(cfg), cfg, None)
    good = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/SHA256SUMS").unlink()
    for changes, message in [
            ({"vocab_size": 64}, r"wte.weight is \(70, 16\), but would be \(64, 16\)"),
            ({"n_positions": 8}, r"wpe.weight is \(12, 16\), but would be \(8, 16\)"),
            ({"n_layer": 3}, r"h.2.attn.c_attn.bias is absent, but would be \(48,\)"),
            ({"n_layer": 1}, r"h.1.attn.c_attn.bias is \(48,\), but would be absent")]:
        (tmp_path / "m/config.json").write_text(json.dumps(good | changes))
        with pytest.raises(ValueError, match=f"{tmp_path}/m: {message} .*again") as caught:
            hf.load_model(tmp_path / "m")
        assert "\n" not in str(caught.value)


def test_shards_of_one_model_are_read_together(tmp_path):
    cfg = config()
    model = padded_zero(model_of(cfg))
    hf.save_model(tmp_path / "m", model, cfg, None)
    tensors = load_file(tmp_path / "m/model.safetensors")
    for file in ("model.safetensors", "SHA256SUMS"):
        (tmp_path / "m" / file).unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / "m" / file)
    weight_map = {key: file for file, keys in halves.items() for key in keys}
    index = tmp_path / "m/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    loaded, _ = hf.load_model(tmp_path / "m")
    assert all(map(torch.equal, loaded.parameters(), model.parameters()))
    (tmp_path / "m/b.safetensors").unlink()
    with pytest.raises(ValueError, match="damaged or incomplete"):
        hf.load_model(tmp_path / "m")


def test_an_untied_head_is_refused(tmp_path):
    cfg = config()
    hf.save_model(tmp_path / "m", model_of(cfg), cfg, None)
    tensors = load_file(tmp_path / "m/model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1
    save_file(tensors, tmp_path / "m/model.safetensors", metadata={"format": "pt"})
    (tmp_path / "m/SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
        hf.load_model(tmp_path / "m")


@pytest.mark.parametrize("architecture", sorted(RUNGS))
def test_a_rung_is_written_under_its_own_type_and_loads_back_exactly(tmp_path, architecture):
    model = random_model(65, architecture=architecture, scale=0.3)
    hf.save_model(tmp_path / "m", model, model.cfg, None)
    assert json.loads((tmp_path / "m/config.json").read_text())["model_type"] == "reprogpt"
    loaded, cfg = hf.load_model(tmp_path / "m")
    assert cfg == model.cfg
    idx = random_ids(65, 12)
    assert torch.equal(loaded.logits(loaded(idx)), model.logits(model(idx)))
    with pytest.raises(ValueError, match="reprogpt"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("architecture", sorted(RUNGS))
def test_a_rung_is_sampled_and_scored_like_any_model(architecture):
    import numpy as np

    from reprogpt.evaluation.hellaswag import Prompt, score_prompts
    from reprogpt.runtime.distributed import Process

    model = random_model(65, architecture=architecture, scale=0.3)
    prompts = [[1, 2, 3], [4]]
    assert (generate(model, prompts, 20, seeds=[1, 2])
            == [generate(model, [p], 20, seeds=[s], use_cache=False)[0]
                for p, s in zip(prompts, [1, 2])])

    alone = Process(0, 1, torch.device("cpu"))
    prompt = Prompt([1, 2, 3], [[4, 5], [4, 6], [7], [8, 9, 10]], [1] * 4)
    sums = score_prompts(model, [prompt], alone)
    for ending, found in zip(prompt.endings, sums[0]):
        row = torch.tensor([prompt.context + ending])
        logp = model.logits(model(row)).log_softmax(-1)[0]
        expected = -sum(logp[2 + i, t].item() for i, t in enumerate(ending))
        assert found == pytest.approx(expected, rel=1e-4)

    class Zeros:
        n_tokens = 30

        def read(self, start, count):
            return np.zeros(count, np.uint16)

        def read_mask(self, start, count):
            return None

    idx = torch.zeros(1, 12, dtype=torch.int64)
    expected = -model.logits(model(idx)).log_softmax(-1)[0, :, 0].mean().item()
    found = validation_loss(model, Zeros(), np.ones(65), alone, val_tokens=None, block_size=12)
    assert found.loss == pytest.approx(expected, rel=1e-5)


def test_a_model_without_biases_is_still_a_gpt2(tmp_path):
    model = random_model(65, bias=False)
    hf.save_model(tmp_path / "m", model, model_config(bias=False), None)
    assert json.loads((tmp_path / "m/config.json").read_text())["model_type"] == "gpt2"


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_flipped_bit_in_a_file_of_a_model_is_found(tmp_path, file):
    gpt2_tokenizer().save(tmp_path / "tokenizer")
    hf.save_model(tmp_path / "m", random_model(50257), model_config(), tmp_path / "tokenizer")
    content = bytearray((tmp_path / "m" / file).read_bytes())
    content[-20] ^= 1
    (tmp_path / "m" / file).write_bytes(content)
    load = load_tokenizer if file == "tokenizer.json" else hf.load_model
    with pytest.raises(ValueError, match=rf"{file}: has the sha256 .* altered; .*again") as caught:
        load(tmp_path / "m")
    assert "\n" not in str(caught.value)
    (tmp_path / "m" / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}"):
        load(tmp_path / "m")


OTHER_VALUES = (None, True, -1, 0, 1e9, 10**9, 10**20, 1.5, "x", [], [1], {}, {"a": 1})


@pytest.mark.parametrize("switches", [{}, {"activation": "swiglu", "position": "rope"}])
def test_a_config_of_other_values_is_one_line_and_takes_no_memory(tmp_path, switches):
    """n_layer = n_embd = 10**9 would take minutes, and more memory than there is."""
    model = random_model(**switches)
    hf.save_model(tmp_path / "m", model, model.cfg, None)
    (tmp_path / "m/SHA256SUMS").unlink()
    good = json.loads((tmp_path / "m/config.json").read_text())
    own = good["reprogpt"] if switches else {}
    shape = () if switches else ("n_layer", "n_head", "n_embd", "n_positions")
    changed = [({**good, key: value}, key) for key in ("model_type", "vocab_size", *shape)
               for value in OTHER_VALUES]
    changed += [({**good, "reprogpt": {**own, key: value}}, key)
                for key in ("n_layer", "n_head", "n_embd", "position") if key in own
                for value in OTHER_VALUES]
    for config, key in changed:
        (tmp_path / "m/config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"config\.json|would be|init_from") as caught:
            hf.load_model(tmp_path / "m")
        assert "\n" not in str(caught.value), key


def test_safetensors_and_their_index_of_other_content_are_one_line(tmp_path):
    hf.save_model(tmp_path / "m", random_model(), model_config(), None)
    for file in ("model.safetensors", "SHA256SUMS"):
        (tmp_path / "m" / file).unlink()
    for value in OTHER_VALUES:
        for index in (value, {"weight_map": value}):
            (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps(index))
            with pytest.raises(ValueError, match=r"damaged or incomplete|is absent"):
                hf.load_model(tmp_path / "m")
    for content in (b"", b"\0" * 100, b"text " * 20):
        (tmp_path / "m/model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="damaged or incomplete"):
            hf.load_model(tmp_path / "m")
    save_file({"other": torch.zeros(3)}, tmp_path / "m/model.safetensors")
    with pytest.raises(ValueError, match="is absent, but would be"):
        hf.load_model(tmp_path / "m")
