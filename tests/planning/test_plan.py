"""The plan of a run: its counts against the model's own, its estimates against measured figures."""

import shutil
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.preset import names, values_of
from reprogpt.config import Config, merge
from reprogpt.config.recipe import ARCHITECTURES
from reprogpt.model.gpt import GPT
from reprogpt.planning import plan as module
from reprogpt.planning.plan import plan
from reprogpt.tokens.manifest import Manifest, Totals
from tests.conftest import ROOT
from tests.small_models import model_config

FOLDER = ROOT / "presets"
ALL = names(FOLDER)


@pytest.fixture(autouse=True)
def large_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**15))


def preset(name: str, **changes: Any) -> Config:
    return Config.parse(merge(values_of(name, FOLDER), changes), source=name)


def test_gpt2_has_124_439_808_parameters_by_part() -> None:
    found = plan(preset("gpt2-124m"))
    assert found["parameters"] == {
        "token embedding": 50257 * 768, "position embedding": 1024 * 768,
        "attention": 12 * (768 * 2304 + 2304 + 768 * 768 + 768),
        "MLP": 12 * (768 * 3072 + 3072 + 3072 * 768 + 768), "value embeddings": 0,
        "n-gram embeddings": 0, "head": 0,
        "norms and others": 25 * 2 * 768}
    assert sum(found["parameters"].values()) == 124_439_808
    vectors = 12 * (2304 + 768 + 3072 + 768) + 25 * 2 * 768  # 98 tensors, not decayed
    assert vectors == 121_344
    assert sum(found["parameters"].values()) - vectors + 47 * 768 == 124_354_560  # with padding


def test_flops_are_6_n_and_12_l_t_c() -> None:
    flops = plan(preset("gpt2-124m"))["flops_per_token"]
    assert flops["attention scores"] == 12 * 12 * 1024 * 768
    assert sum(flops.values()) == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 1024 * 768


@pytest.mark.parametrize("switches", [
    {}, {"tied_head": False}, {"value_embeds": True, "n_layer": 4, "ngram_rows": [90]},
    {"position": "rope"},
    {"activation": "swiglu"}, {"x0_skip": True, "embed_norm": True, "bias": False}])
def test_parts_add_up_to_the_models_own_counts(switches: dict[str, Any]) -> None:
    model = GPT(model_config(**switches), 70)
    parts = module.parameters_by_part(model, 70)
    assert sum(parts.values()) == model.num_parameters()
    flops = module.flops_by_part(parts, model.flops_per_token(12), 70 * 16)
    assert sum(flops.values()) == model.flops_per_token(12)
    assert flops["attention scores"] == 12 * model.cfg.n_layer * 12 * 16


@pytest.mark.parametrize("name", ALL)
def test_every_preset_can_be_planned(name: str) -> None:
    found = plan(preset(name))
    assert found["preset"] == name
    assert sum(found["parameters"].values()) > 50_000
    assert all(hours >= 0 for hours in found["hours_on_one"].values())


@pytest.mark.parametrize("rung", [name for name in ARCHITECTURES if name != "gpt"])
def test_every_model_of_lecture_1_can_be_planned(rung: str) -> None:
    found = plan(preset("char-cpu", model={"architecture": rung, "bias": True, "dropout": 0.0}))
    assert sum(found["parameters"].values()) > 0
    assert all(cost >= 0 for cost in found["flops_per_token"].values())


@pytest.mark.parametrize(("name", "measured"), [("gpt2-350m", 126.2e9), ("modern-124m", 56.5e9)])
def test_memory_is_near_the_peak_measured_on_an_h200(name: str, measured: float) -> None:
    found = plan(preset(name))
    assert found["micro_batch"] == 128
    assert sum(found["memory_bytes"].values()) == pytest.approx(measured, rel=0.05)


def test_hours_are_near_those_measured_on_an_h200() -> None:
    measured = 9_999_745_024 / 492_350 / 3600  # benchmarks/README.md: tokens a second
    assert plan(preset("gpt2-124m"))["hours_on_one"]["H200"] == pytest.approx(measured, rel=0.03)


def test_epochs_are_of_the_shards_where_they_are_there() -> None:
    cfg = preset("shakespeare")
    assert plan(cfg)["epochs"] == pytest.approx(0.3724, rel=0.02)
    totals = {"train": Totals(34, 1_375_150, 4_451_982), "val": Totals(4, 167_048, 546_172)}
    found = plan(cfg, Manifest((), totals, {"name": "gpt2", "n_vocab": 50257}, {}))
    assert found["counted"]
    assert found["epochs"] == 512_000 / 1_375_150
    assert found["disk_bytes"]["shards"] == 2 * 1_542_198
    assert sum(n.tokens for n in totals.values()) == module.CORPORA["shakespeare"][0]


def test_arithmetic_is_counted_by_its_problems() -> None:
    cfg = preset("addition")
    assert cfg.download.task
    found = plan(cfg)["train_tokens"]
    assert found == int(cfg.download.task.examples * 13 * (1 - cfg.download.task.held_out))


def test_a_part_of_a_corpus_and_one_that_is_unknown() -> None:
    whole, half = (plan(preset("shakespeare", download={"max_bytes": n}))["train_tokens"]
                   for n in (None, 4_998_144 // 2))
    assert half == pytest.approx(whole / 2, rel=1e-3)
    assert plan(preset("pretrain-books"))["epochs"] is None


def warned(cfg: Config) -> set[str]:
    return {text.partition(":")[0] for text in plan(cfg)["warnings"]}


def test_the_default_and_gpt2_give_no_warning() -> None:
    assert warned(preset("shakespeare")) == warned(preset("gpt2-124m")) == set()


@pytest.mark.parametrize(("about", "changes"), [
    ("data", {"train": {"max_steps": 4000}}),
    ("validation", {"train": {"val_tokens": 640}}),
    ("batch", {"train": {"batch_tokens": 2**20, "max_steps": 1, "warmup_steps": 0}}),
    ("batch", {"train": {"batch_tokens": 64, "max_steps": 10**6}, "model": {"n_embd": 512},
               "download": {"corpus": "fineweb-edu"}}),
    ("time", {"train": {"batch_tokens": 65536, "max_steps": 20_000},
              "model": {"n_embd": 16384, "n_layer": 96}, "download": {"corpus": "fineweb-edu"}})])
def test_a_warning(about: str, changes: dict[str, Any]) -> None:
    assert warned(preset("shakespeare", **changes)) == {about}


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    assert warned(preset("shakespeare")) == {"disk"}


def test_a_measured_speed_replaces_the_gpu_in_the_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measured_speed", lambda cfg, vocab: 1000.0)
    found = plan(preset("gpt2-124m"), measure=True)
    assert found["tokens_per_second"] == 1000
    assert [text for text in found["warnings"] if "116 days on this machine" in text]


def test_a_trained_tokenizer_is_planned_before_it_exists() -> None:
    """Against docs/tokenizers.md: tokens of the plays' training split, embeddings."""
    for vocab, tokens in ((512, 2_338_353), (1024, 1_896_502), (4096, 1_451_907)):
        found = plan(preset("shakespeare", tokenize={"encoding": "bpe", "vocab_size": vocab}))
        assert found["train_tokens"] == pytest.approx(tokens, rel=0.06)
        assert found["parameters"]["token embedding"] == (vocab + 1) * 64
