"""Presets: each is a whole, valid run made from the base, and says what was published."""

import math
from pathlib import Path

import pytest
import torch
from dvc.utils.serialize import parse_yaml

from pipeline.preset import names, refuse_hybrid, render, values_of
from reprogpt.config import Config, read_yaml
from reprogpt.errors import ConfigError
from reprogpt.model.registry import build_model
from tests.conftest import ROOT, run

FOLDER = ROOT / "presets"
ALL = names(FOLDER)


@pytest.mark.parametrize("name", ALL)
def test_a_preset_is_valid_and_renders_to_its_values(name: str) -> None:
    values = values_of(name, FOLDER)
    config = Config.parse(values, source=name)
    assert config.preset == name
    assert parse_yaml(render(name, FOLDER), name) == values


@pytest.mark.parametrize("name", [n for n in ALL if n != "shakespeare"])
def test_an_overlay_says_what_it_is_and_only_what_differs(name: str) -> None:
    assert (FOLDER / f"{name}.yaml").read_text().startswith("# ")
    assert "preset" not in read_yaml(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("name", ALL)
def test_a_rendered_preset_keeps_the_comments_of_the_base(name: str) -> None:
    text = render(name, FOLDER)
    for line in ("# Where and how. No result depends on it", "# The run. `dvc repro`"):
        assert line in text
    for section in ("download", "tokenize", "model", "train", "evaluate", "sample", "runtime"):
        body = text.split(f"\n{section}:\n")[1].split("\n\n")[0]
        assert parse_yaml(body, section), f"{section} of {name} is cut by an empty line"


def test_the_base_renders_to_itself() -> None:
    assert render("shakespeare", FOLDER) == (FOLDER / "shakespeare.yaml").read_text()


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean gpt2-124m"):
        values_of("gpt2-124", FOLDER)
    with pytest.raises(ConfigError, match="there are: .*shakespeare"):
        values_of("zzzzzzz", FOLDER)


# name: layers, heads, width, block, lr, batch in tokens. GPT-3: table 2.1 of its paper (0.5M, 1M
# and 2M as powers of two); GPT-2's paper has the shapes, and no rates.
PUBLISHED = {
    "gpt2-124m": (12, 12, 768, 1024, 6e-4, 2**19),
    "gpt2-350m": (24, 16, 1024, 1024, 3e-4, 2**19),
    "gpt2-774m": (36, 20, 1280, 1024, 2.5e-4, 2**19),
    "gpt2-1558m": (48, 25, 1600, 1024, 2e-4, 2**20),
    "gpt3-125m": (12, 12, 768, 2048, 6e-4, 2**19),
    "gpt3-350m": (24, 16, 1024, 2048, 3e-4, 2**19),
    "gpt3-760m": (24, 16, 1536, 2048, 2.5e-4, 2**19),
    "gpt3-1b3": (24, 16, 2048, 2048, 2e-4, 2**20),
    "gpt3-2b7": (32, 32, 2560, 2048, 1.6e-4, 2**20),
    "gpt3-6b7": (32, 32, 4096, 2048, 1.2e-4, 2**21),
    "gpt3-13b": (40, 40, 5120, 2048, 1e-4, 2**21),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_is_to_the_letter(name: str) -> None:
    config = Config.parse(values_of(name, FOLDER))
    model, train = config.model, config.train
    assert (model.n_layer, model.n_head, model.n_embd, model.block_size, train.lr,
            train.batch_tokens) == PUBLISHED[name]
    assert math.isclose(train.min_lr, train.lr / 10)
    assert train.warmup_steps == round(375e6 / train.batch_tokens)
    assert (train.beta1, train.beta2, train.weight_decay, train.grad_clip) == (0.9, 0.95, 0.1, 1.0)
    assert (train.schedule, train.optimizer, model.dropout) == ("cosine", "adamw", 0.0)


@pytest.mark.parametrize(("name", "steps", "rows"), [("char-cpu", 2000, 12),
                                                     ("nanogpt-char", 5000, 64)])
def test_nanogpt_s_character_runs(name: str, steps: int, rows: int) -> None:
    """config/train_shakespeare_char.py of its repository, and what its README changes on a CPU."""
    config = Config.parse(values_of(name, FOLDER))
    train = config.train
    assert train.batch_tokens == rows * config.model.block_size
    assert (train.max_steps, train.warmup_steps, train.eval_interval) == (steps, 100, 250)
    assert (train.lr, train.min_lr, train.beta1, train.beta2) == (1e-3, 1e-4, 0.9, 0.99)
    assert (train.weight_decay, train.grad_clip, config.model.bias) == (0.1, 1.0, False)


# Millions of parameters: OpenAI's own for GPT-2, the paper's table 2.1 for GPT-3.
SIZES = {"gpt2-124m": 124.4, "gpt2-350m": 354.8, "gpt2-774m": 774.0, "gpt2-1558m": 1557.6,
         "gpt3-125m": 125, "gpt3-350m": 350, "gpt3-760m": 760, "gpt3-1b3": 1300, "gpt3-2b7": 2700,
         "gpt3-6b7": 6700, "gpt3-13b": 13000}


@pytest.mark.parametrize("name", SIZES)
def test_a_published_size_has_its_parameters(name: str) -> None:
    with torch.device("meta"):  # nothing is allocated
        model = build_model(Config.parse(values_of(name, FOLDER)).model, 50_257)
    padding = (-50_257 % 64) * Config.parse(values_of(name, FOLDER)).model.n_embd
    millions = (sum(p.numel() for p in model.parameters()) - padding) / 1e6
    # GPT-3's names are rounded: its XL is 1316M, its Small 125.2M.
    assert millions == pytest.approx(SIZES[name], rel=2e-2 if name.startswith("gpt3") else 1e-3)


def test_the_lecture_s_runs() -> None:
    short, long = (Config.parse(values_of(f"gpt2-124m{tail}", FOLDER)) for tail in ("", "-40b"))
    assert (short.train.max_steps, short.train.warmup_steps) == (19_073, 715)
    assert long.train.max_steps == 4 * 19_073
    assert short.tokenize == long.tokenize
    assert short.download == long.download


class TestHybrids:
    def file(self, folder: Path, name: str, text: str) -> Path:
        (folder / "params.yaml").write_text(f"preset: {name}\n" + "".join(
            line for line in text.splitlines(True) if not line.startswith("preset:")))
        return folder / "params.yaml"

    @pytest.mark.parametrize("name", ALL)
    def test_a_preset_as_written_is_none(self, name: str, tmp_path: Path) -> None:
        refuse_hybrid(self.file(tmp_path, name, render(name, FOLDER)), FOLDER)

    def test_another_name_on_the_same_values_is_refused_with_the_command(
        self, tmp_path: Path
    ) -> None:
        path = self.file(tmp_path, "gpt2-124m", render("shakespeare", FOLDER))
        with pytest.raises(ConfigError, match=r"python -m pipeline\.preset gpt2-124m"):
            refuse_hybrid(path, FOLDER)

    def test_an_unknown_name_is_refused(self, tmp_path: Path) -> None:
        path = self.file(tmp_path, "tinyy", render("shakespeare", FOLDER))
        with pytest.raises(ConfigError, match="did you mean tiny"):
            refuse_hybrid(path, FOLDER)

    def test_edits_are_free(self, tmp_path: Path) -> None:
        text = render("gpt2-124m", FOLDER)
        for old, new in (("n_layer: 12", "n_layer: 4"), ("lr: 6e-4", "lr: 1e-3"),
                         ("max_steps: 19_073", "max_steps: 100")):
            assert old in text
            text = text.replace(old, new)
        refuse_hybrid(self.file(tmp_path, "gpt2-124m", text), FOLDER)

    def test_edits_that_reach_a_near_preset_are_free(self, tmp_path: Path) -> None:
        """gpt2-124m-40b differs in its steps alone: that many steps may also be asked for."""
        text = render("gpt2-124m", FOLDER).replace("max_steps: 19_073", "max_steps: 76_292")
        refuse_hybrid(self.file(tmp_path, "gpt2-124m", text), FOLDER)


class TestCommand:
    def preset(self, checkout: Path, *arguments: str) -> tuple[int, str, str]:
        done = run("python", "-m", "pipeline.preset", *arguments, cwd=checkout)
        return done.returncode, done.stdout, done.stderr

    def test_writes_params_yaml(self, checkout: Path) -> None:
        code, out, _ = self.preset(checkout, "gpt2-124m")
        assert code == 0
        assert "dvc repro runs it" in out
        assert read_yaml(checkout / "params.yaml") == values_of("gpt2-124m", FOLDER)

    def test_never_mixes_with_the_file_at_hand_and_names_the_edits_it_replaces(
        self, checkout: Path
    ) -> None:
        self.preset(checkout, "shakespeare")
        params = checkout / "params.yaml"
        params.write_text(params.read_text().replace("top_k: 50", "top_k: 7"))
        code, out, _ = self.preset(checkout, "tiny")
        assert code == 0
        assert "sample.top_k=7" in out
        assert read_yaml(params) == values_of("tiny", FOLDER)

    def test_an_unknown_name_changes_nothing(self, checkout: Path) -> None:
        before = (checkout / "params.yaml").read_bytes()
        code, _, err = self.preset(checkout, "shakespear")
        assert code == 2
        assert "did you mean shakespeare" in err
        assert len(err.splitlines()) == 1
        assert (checkout / "params.yaml").read_bytes() == before

    @pytest.mark.parametrize("text", ["preset: shakespeare\nsample: [\n", "- a\n- list\n"])
    def test_a_file_that_cannot_be_read_is_not_overwritten(
        self, checkout: Path, text: str
    ) -> None:
        (checkout / "params.yaml").write_text(text)
        code, out, err = self.preset(checkout, "tiny")
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith("params.yaml: ")
        assert "or remove params.yaml: it is not overwritten unread" in err
        assert (checkout / "params.yaml").read_text() == text

    @pytest.mark.parametrize("text", [None, "", "# nothing but a comment\n\n"])
    def test_a_file_with_nothing_to_lose_is_written(
        self, checkout: Path, text: str | None
    ) -> None:
        (checkout / "params.yaml").unlink()
        if text is not None:
            (checkout / "params.yaml").write_text(text)
        assert self.preset(checkout, "tiny")[0] == 0
        assert read_yaml(checkout / "params.yaml") == values_of("tiny", FOLDER)

    def test_edits_of_a_file_with_an_unknown_preset_are_named_too(self, checkout: Path) -> None:
        params = checkout / "params.yaml"
        params.write_text(render("shakespeare", FOLDER).replace("preset: shakespeare", "preset: my")
                          .replace("top_k: 50", "top_k: 7"))
        code, out, _ = self.preset(checkout, "tiny")
        assert code == 0
        assert "replaced edits: preset=my, sample.top_k=7" in out

    def test_from_another_folder_it_says_where_to_run(self, tmp_path: Path) -> None:
        for arguments in ((), ("tiny",)):
            done = run("python", "-m", "pipeline.preset", *arguments, cwd=tmp_path,
                       PYTHONPATH=str(ROOT))
            assert (done.returncode, done.stdout) == (2, "")
            assert done.stderr == (f"presets/ does not exist; run from the project's root, {ROOT}"
                                   "\n")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("arguments", [("tiny", "char-cpu"), ("--list",)])
    def test_it_takes_one_name(self, checkout: Path, arguments: tuple[str, ...]) -> None:
        code, out, err = self.preset(checkout, *arguments)
        assert (code, out) == (2, "")
        assert err == (f"python -m pipeline.preset: unrecognized arguments: {arguments[-1]}; "
                       "--help shows what it takes\n")

    def test_without_a_name_lists_them(self, checkout: Path) -> None:
        code, out, _ = self.preset(checkout)
        assert code == 0
        rows = [line.split(maxsplit=1) for line in out.splitlines()[2:]]
        assert [name for name, _ in rows] == ALL
        assert all(len(about) > 10 and not about.endswith((",", ";")) for _, about in rows)
        assert max(map(len, out.splitlines())) <= 100
