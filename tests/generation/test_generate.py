"""Sampling, with transformers' generate and a loop without a cache as the oracles."""

import pytest
import torch

from reprogpt.formats import huggingface as hf
from reprogpt.generation.generate import (
    draw_index,
    generate,
    keep_top_p,
    penalize_repetition,
    sample,
    stream,
)
from reprogpt.generation.kv_cache import FixedStep
from reprogpt.model.kernels.packed_linear import packed
from tests.small_models import model_config, random_ids, random_model

torch.set_num_threads(1)
VOCAB = 70


def greedy_by_hand(model, prompt, n):
    """The definition: the whole window through the model, the likeliest token, n times."""
    row = list(prompt)
    for _ in range(n):
        window = torch.tensor([row[-model.cfg.block_size:]])
        row.append(int(model.logits(model(window))[0, -1].argmax()))
    return row[len(prompt):]


@pytest.fixture
def model():
    return random_model(VOCAB, scale=0.3, block_size=24)


PROMPTS = [[1, 2, 3], [5], [9, 8, 7, 6, 5, 4, 3]]


def test_greedy_equals_transformers_token_for_token(model, tmp_path):
    transformers = pytest.importorskip("transformers")
    hf.save_model(tmp_path / "m", model, model.cfg, None)
    other = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "m").eval()
    ours = generate(model, PROMPTS, 16, temperature=0)
    for prompt, row in zip(PROMPTS, ours):
        out = other.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False,
                             pad_token_id=0)
        assert out[0, len(prompt):].tolist() == row


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_equals_the_definition_beyond_block_size_too(model, use_cache):
    ours = generate(model, PROMPTS, 40, temperature=0, use_cache=use_cache)
    assert ours == [greedy_by_hand(model, p, 40) for p in PROMPTS]


def test_a_prompt_longer_than_the_context_keeps_its_end(model):
    long = random_ids(VOCAB, 50, rows=1)[0].tolist()
    assert generate(model, [long, [3]], 5, temperature=0) == [
        greedy_by_hand(model, long, 5), greedy_by_hand(model, [3], 5)]


def test_sampled_text_is_the_same_with_and_without_cache(model):
    a, b = (generate(model, PROMPTS, 30, seeds=[1, 2, 3], top_k=20, top_p=0.9, use_cache=cache,
                     repetition_penalty=1.2) for cache in (True, False))
    assert a == b


SWITCHES = [{}, {"position": "rope", "qk_norm": True, "value_embeds": True, "x0_skip": True,
                 "norm": "rmsnorm", "activation": "swiglu", "tied_head": False},
            {"n_kv_head": 1, "position": "sinusoidal", "norm_position": "post"}]


@pytest.mark.parametrize("switches", SWITCHES)
def test_a_step_of_fixed_size_writes_the_same(switches, monkeypatch):
    model = random_model(VOCAB, scale=0.3, block_size=24, **switches)
    rows, options = [*PROMPTS, PROMPTS[0]], {"seeds": [1, 2, 3, 4], "top_k": 20, "temperature": 0.9}
    growing = generate(model, rows, 30, **options)  # beyond the block too
    steps = []
    compute = FixedStep._compute
    monkeypatch.setattr(FixedStep, "_compute", lambda step: steps.append(1) or compute(step))
    monkeypatch.setattr("reprogpt.generation.generate.uses_fixed_step", lambda model: True)
    assert generate(model, rows, 30, **options) == growing
    assert len(steps) == 24 - 7  # of the longest prompt's 7 tokens to the block's end


def test_a_sample_depends_on_its_prompt_and_seed_alone(model):
    together = generate(model, PROMPTS, 12, seeds=[1, 2, 3], stop=4)
    assert together == [generate(model, [p], 12, seeds=[s], stop=4)[0]
                        for p, s in zip(PROMPTS, [1, 2, 3])]
    same = generate(model, [PROMPTS[0]] * 3, 12, seeds=[1, 1, 2])
    assert same[0] == same[1] != same[2]


def test_generating_touches_no_global_generator(model):
    state = torch.get_rng_state()
    generate(model, PROMPTS, 5, seeds=[1, 2, 3])
    assert torch.equal(state, torch.get_rng_state())


def test_it_stops_after_the_stop_token(model):
    free = generate(model, PROMPTS, 16, temperature=0)
    stop = free[0][3]
    stopped = generate(model, PROMPTS, 16, temperature=0, stop=stop)
    for row, whole in zip(stopped, free):
        end = whole.index(stop) + 1 if stop in whole else len(whole)
        assert row == whole[:end]
    assert len(list(stream(model, PROMPTS[:1], 16, temperature=0, stop=stop))) == len(stopped[0])


def test_padded_ids_are_never_sampled():
    model = random_model(66, scale=0.3)  # 62 padding rows, and random ones at that
    rows = generate(model, [[1]] * 8, 40, seeds=range(8), temperature=5.0)
    assert max(map(max, rows)) < 66


def test_what_cannot_be_generated_is_refused(model):
    with pytest.raises(ValueError, match="prompt is empty"):
        generate(model, [[1], []], 3, temperature=0)
    with pytest.raises(ValueError, match="seeds"):
        generate(model, [[1], [2]], 3, seeds=[1])


def test_samples_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    n = 40_000
    draws = torch.rand(n, generator=torch.Generator().manual_seed(0))
    chosen = sample(logits.expand(n, -1), draws, temperature=0.7)
    share = torch.bincount(chosen, minlength=4) / n
    # 5 standard deviations of a share over n draws
    torch.testing.assert_close(share, (logits[0] / 0.7).softmax(0), atol=5 * 0.5 / n**0.5, rtol=0)


def test_top_k_and_top_p_keep_what_they_say():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    draws = torch.linspace(0, 0.999, 500)
    rows = p.log().expand(500, -1)
    assert set(sample(rows, draws, 1.0, top_k=2).tolist()) == {1, 3}
    assert set(sample(rows, draws, 1.0, top_p=0.65).tolist()) == {1, 3}
    assert set(sample(rows, draws, 1.0, top_p=0.75).tolist()) == {1, 2, 3}
    assert set(sample(rows, draws, 1.0, top_p=1e-9).tolist()) == {1}
    assert set(sample(rows, draws, 1.0, top_k=9).tolist()) == {0, 1, 2, 3}
    kept = keep_top_p(torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log(), 0.65).isfinite()
    assert kept.tolist() == [[True, True, False, False]]


def test_a_draw_never_lands_on_probability_zero():
    p = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    for draw, expected in [(0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-24, 3)]:
        assert draw_index(p, torch.tensor([draw])).item() == expected


def test_repetition_penalty_is_that_of_transformers():
    processor = pytest.importorskip("transformers").RepetitionPenaltyLogitsProcessor(1.3)
    logits = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    rows = [[1, 2, 2, 5], [7, 8, 9, 7]]
    assert torch.equal(penalize_repetition(logits, rows, 1.3),
                       processor(torch.tensor(rows), logits.clone()))


def test_no_config_is_needed_beyond_the_models_own():
    assert model_config().block_size == 12
    assert len(generate(random_model(), [[1]], 30, temperature=0)[0]) == 30


def test_a_packed_model_computes_the_same_and_leaves_the_model_alone(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    twin = packed(model)
    assert twin is not model
    idx = random_ids(VOCAB, 24)
    torch.testing.assert_close(twin.logits(twin(idx)), model.logits(model(idx)), atol=1e-5,
                               rtol=1e-5)
    assert generate(twin, PROMPTS, 40, temperature=0) == generate(model, PROMPTS, 40, temperature=0)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_cannot_be_packed_is_used_as_it_is(model):
    rung = random_model(VOCAB, architecture="head")
    assert packed(rung) is rung
    double = model.double()
    assert packed(double) is double


SWITCHES = [
    {"bias": False}, {"position": "rope"}, {"tied_head": False, "logit_softcap": 5.0},
    {"qk_norm": True, "norm": "rmsnorm", "activation": "swiglu"}, {"window": 5},
    {"x0_skip": True, "value_embeds": True, "embed_norm": True, "activation": "relu2"},
    {"ngram_rows": [31, 17, 23]}, {"n_kv_head": 1, "position": "sinusoidal", "activation": "silu"},
    {"norm_position": "none", "position": "none"}, {"norm_position": "post"},
]


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_switch_is_packed_saved_cached_and_padded_right(switches, tmp_path):
    model = random_model(VOCAB, scale=0.3, **switches)
    idx = random_ids(VOCAB, 12)
    twin = packed(model)
    torch.testing.assert_close(twin.logits(twin(idx)), model.logits(model(idx)), atol=1e-5,
                               rtol=1e-5)
    expected = [greedy_by_hand(model, p, 20) for p in PROMPTS]
    assert generate(model, PROMPTS, 20, temperature=0) == expected
    assert generate(twin, PROMPTS, 20, temperature=0) == expected
    hf.save_model(tmp_path / "m", model, model.cfg, None)
    loaded, cfg = hf.load_model(tmp_path / "m")
    assert cfg == model.cfg
    assert torch.equal(loaded.logits(loaded(idx)), model.logits(model(idx)))


def test_a_cache_crosses_the_window():
    model = random_model(VOCAB, scale=0.3, window=3, block_size=24)
    assert generate(model, PROMPTS, 16, temperature=0) == [
        greedy_by_hand(model, p, 16) for p in PROMPTS]
