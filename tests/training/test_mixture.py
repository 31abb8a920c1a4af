"""Mixtures: the share of each corpus, every window once, and the same rows on any topology."""

import json
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from reprogpt.config import DownloadConfig, TokenizeConfig
from reprogpt.data.corpora import download
from reprogpt.encoding.tokenize_corpus import tokenize
from reprogpt.errors import ConfigError
from reprogpt.launch.run_dir import RunDir
from reprogpt.tokens.manifest import read_manifest
from reprogpt.tokens.shards import TokenStream, open_split
from reprogpt.training.loader import Loader, open_loader
from reprogpt.training.mixture import PERIOD, Mixture
from tests.tiny_runs import config, make_run, train, weights

BASE = {"corpus": "shakespeare", "files": None, "hub": None, "max_bytes": None,
        "max_documents": None}
WEIGHTS = {"verse": 3.0, "prose": 1.0, "sums": 0.5}


def corpora_of(mixture: Mixture, rows: int) -> list[str]:
    names = [""] * rows
    for name, at, _ in mixture.rows(0, rows):
        for row in at:
            names[row] = name
    return names


@pytest.mark.parametrize("shares", [WEIGHTS, {"a": 0.1, "b": 0.2, "c": 0.7},
                                    {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.002, "b": 0.998}])
def test_counts_over_10_000_rows_are_exact_to_one_row(shares: dict[str, float]) -> None:
    names = corpora_of(Mixture(shares, 7), 10 * PERIOD)
    total = sum(map(Fraction, shares.values()))
    for end in range(PERIOD, 10 * PERIOD + 1, PERIOD):
        found = Counter(names[:end])
        assert all(abs(found[name] - end * Fraction(w) / total) <= 1 for name, w in shares.items())


def test_the_order_is_random_within_a_period_and_differs_by_seed_and_period() -> None:
    names = corpora_of(Mixture(WEIGHTS, 7), 2 * PERIOD)
    assert names != corpora_of(Mixture(WEIGHTS, 8), 2 * PERIOD)
    assert names[:PERIOD] != names[PERIOD:]
    changes = sum(a != b for a, b in pairwise(names))
    expected = 1 - sum((w / 4.5) ** 2 for w in WEIGHTS.values())
    assert changes / len(names) == pytest.approx(expected, abs=0.04)


def test_a_corpuss_own_rows_are_numbered_on_however_they_are_asked_for() -> None:
    mixture, seen = Mixture(WEIGHTS, 7), Counter[str]()
    first = 0
    for count in [1, 7, 992, 3, 1000, 1500, 2, 400]:
        for name, at, number in mixture.rows(first, count):
            assert number == seen[name], "a row was left out or taken twice"
            seen[name] += len(at)
        first += count
        assert mixture.counts(first) == {name: seen[name] for name in WEIGHTS}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts and addition's masked problems, downloaded and tokenized as one mixture."""
    root = tmp_path_factory.mktemp("mix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROGPT_CACHE", str(root / "cache"))
        make(root)
    return root


def make(root: Path) -> None:
    for name, letters in (("verse", "abcdefgh"), ("prose", "ijklmnop")):
        (root / name).mkdir()
        rng = np.random.default_rng(len(name))
        for number in range(20):
            text = "".join(rng.choice(list(letters), 200))
            (root / name / f"{number:02d}.txt").write_text(text)
    cfg = DownloadConfig.model_validate(BASE | {"mix": [
            {"corpus": "files", "name": "verse", "files": [f"{root}/verse/*.txt"], "weight": 3.0},
            {"corpus": "files", "name": "prose", "files": [f"{root}/prose/*.txt"], "weight": 1.0},
            {"corpus": "addition", "name": "sums", "weight": 0.5,
             "task": {"digits": 1, "examples": 100, "held_out": 0.1}}]})
    download(cfg, root / "raw")
    (root / "init").mkdir()
    (root / "init/mix.json").write_text(json.dumps(cfg.weights()))
    tokenize(TokenizeConfig(encoding="char", shard_tokens=1024, split="hash", val_fraction=0.2),
             root / "raw", root / "tokens")


def test_each_corpus_has_shards_of_its_own_and_both_splits(tokens: Path) -> None:
    manifest = read_manifest(tokens / "tokens")
    assert manifest.mix == list(WEIGHTS)
    assert [s.name for s in manifest.of("train")] == [
        f"train_{n:06d}.bin" for n in range(len(manifest.of("train")))]
    for split in ("train", "val"):
        streams = open_split(tokens / "tokens", split, "full")
        assert sum(s.n_tokens for s in streams.values()) == manifest.totals[split].tokens
        letters = {name: set(stream.read(0, stream.n_tokens).tolist())
                   for name, stream in streams.items()}
        assert not letters["verse"] & letters["prose"]
        assert [streams[name].masked for name in WEIGHTS] == [False, False, True]


def test_a_mixed_in_corpus_has_the_shards_that_it_has_alone(
        tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So nothing is encoded again when a corpus joins a mixture."""
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "cache"))
    cfg = DownloadConfig(corpus="files", files=[f"{tokens}/prose/*.txt"], hub=None, max_bytes=None,
                         max_documents=None)
    entries = [{"corpus": "files", "name": name, "files": [f"{tokens}/{name}/*.txt"], "weight": 1.0}
               for name in ("verse", "prose")]
    both = DownloadConfig.model_validate(BASE | {"mix": entries})
    for folder, one in (("alone", cfg), ("mixed", both)):
        download(one, tmp_path / folder / "raw")
        tokenize(TokenizeConfig(encoding="gpt2", shard_tokens=1024, split="hash", val_fraction=0.2),
                 tmp_path / folder / "raw", tmp_path / folder / "tokens")
    for split in ("train", "val"):
        alone = TokenStream(tmp_path / "alone/tokens", split)
        mixed = TokenStream(tmp_path / "mixed/tokens", split, corpus="prose")
        assert [s.sha256 for s in alone.shards] == [s.sha256 for s in mixed.shards]


def loader_of(tokens: Path, rows: int = 12) -> Loader:
    return open_loader(config(train={"batch_tokens": rows * 16}, model={"block_size": 16}),
                       tokens / "tokens", tokens / "init")


def test_every_window_of_a_corpus_once_before_it_repeats(tokens: Path) -> None:
    loader = loader_of(tokens)
    seen: dict[str, list[int]] = {name: [] for name in WEIGHTS}
    for step in range(120):
        for windows, _, starts in loader.places(step):
            name, = (n for n, w in loader.corpora.items() if w is windows)
            seen[name] += starts.tolist()
    for name, windows in loader.corpora.items():
        n = windows.per_epoch
        for epoch in range(len(seen[name]) // n):
            assert len(set(seen[name][epoch * n:(epoch + 1) * n])) == n
    assert len(seen["prose"]) >= loader.corpora["prose"].per_epoch, "none was seen to repeat"
    counts = loader.counts(120)["mix"]
    assert {name: part["tokens"] // 16 for name, part in counts.items()} == {
        name: len(starts) for name, starts in seen.items()}
    assert counts["prose"]["epochs"] == pytest.approx(
        len(seen["prose"]) / loader.corpora["prose"].per_epoch, abs=1e-4)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_any_number_of_processes_gets_the_same_rows_and_masks(tokens: Path, world_size: int
                                                              ) -> None:
    loader = loader_of(tokens)
    for step in (0, 90, 170):
        whole = loader.batch(step)
        parts = [loader.batch(step, rank, world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat([p.idx for p in parts]), whole.idx)
        assert torch.equal(torch.cat([p.targets for p in parts]), whole.targets)
        assert {p.valid for p in parts} == {int((whole.targets >= 0).sum())}


def test_weights_of_other_corpora_are_refused(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dvc repro"):
        open_loader(config(), tokens / "tokens", tmp_path)


def test_training_on_a_mixture_resumes_exactly_and_reports_by_corpus(tokens: Path, tmp_path: Path
                                                                     ) -> None:
    def run(folder: str) -> RunDir:
        made = make_run(tmp_path / folder, tokens / "tokens", train={"max_steps": 8})
        Path(made.paths.init, "mix.json").write_text(json.dumps(WEIGHTS))
        return made

    straight, stopped = run("straight"), run("stopped")
    train(straight)
    train(stopped)
    last = sorted(stopped.path.glob("step_*.pt"))[-1]
    last.unlink()  # as if killed before it
    train(stopped)
    assert weights(straight) == weights(stopped)
    result = json.loads(Path(straight.paths.json).read_text())
    assert sum(part["tokens"] for part in result["mix"].values()) == result["tokens"]
    assert result["mix"]["verse"]["share"] == pytest.approx(3 / 4.5)


@pytest.mark.parametrize(("changes", "key"), [
    ({"mix": []}, "download.mix"),
    ({"mix": [{"corpus": "shakespeare"}]}, "download.mix.0.weight"),
    ({"mix": [{"corpus": "shakespeare", "weight": 0}]}, "download.mix.0.weight"),
    ({"mix": [{"corpus": "files", "weight": 1.0}]}, "download.mix.0.files"),
    ({"mix": [{"corpus": "shards", "files": ["a"], "weight": 1.0}]}, "download.mix.0.corpus"),
    ({"mix": [{"corpus": "shakespeare", "weight": 1.0}] * 2}, "download.mix"),
    ({"mix": [{"corpus": "shakespeare", "weight": 1000.0},
              {"corpus": "tinyshakespeare", "weight": 1.0}]}, "download.mix.1.weight"),
    ({"max_bytes": 10, "mix": [{"corpus": "shakespeare", "weight": 1.0}]}, "download.max_bytes"),
])
def test_a_wrong_mixture_is_refused_in_a_line(changes: dict, key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"[.\[]").replace("0", r"0\]?")) as bad:
        config(download=changes)
    assert "\n" not in str(bad.value)


def test_tail_divides_no_mixture() -> None:
    with pytest.raises(ConfigError, match=r"tokenize\.split"):
        config(download={"mix": [{"corpus": "shakespeare", "weight": 1.0}]},
               tokenize={"split": "tail"})
