"""`python -m pipeline.plan`, `make plan`, and the three lines of `make repro`."""

import json
import re
from pathlib import Path

import pytest

from pipeline import plan as module
from reprogpt.config import Config
from tests.conftest import ROOT, edit, run
from tests.tiny_runs import write_tokens


def plan(project: Path, *options: str) -> str:
    done = run("python", "-m", "pipeline.plan", *options, cwd=project)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plan_of_params_yaml_and_of_a_preset(checkout: Path) -> None:
    edit(checkout, "train.max_steps", "123")
    before = (checkout / "params.yaml").read_bytes()
    assert json.loads(plan(checkout, "--json"))["steps"] == 123
    found = json.loads(plan(checkout, "--json", "--preset", "gpt2-124m"))
    assert sum(found["parameters"].values()) == 124_439_808
    assert found["tokens"] == 19_073 * 2**19
    assert (checkout / "params.yaml").read_bytes() == before
    short = plan(checkout, "--short").splitlines()
    assert 2 <= len(short) <= 3
    assert "123 steps" in short[0]


@pytest.mark.parametrize(("options", "told"), [
    (("--rate", "-1"), "--rate: -1 must be above 0"), (("--rate", "x"), "--rate"),
    (("--preset", "gpt2-124"), "did you mean gpt2-124m")])
def test_a_wrong_option_is_one_line(options: tuple[str, ...], told: str) -> None:
    done = run("python", "-m", "pipeline.plan", *options, cwd=ROOT)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_the_manifest_counts_where_dvc_lock_names_these_params(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config.load(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    assert module.manifest_of(cfg) is None
    write_tokens(tmp_path / "data/tokens")
    assert module.manifest_of(cfg) is None
    Path("dvc.lock").write_text(json.dumps({"stages": {
        stage: {"params": {"params.yaml": {stage: getattr(cfg, stage).model_dump(mode="json")}}}
        for stage in ("download", "tokenize")}}))
    found = module.manifest_of(cfg)
    assert found is not None
    assert found.totals["train"].tokens == 6000
    other = cfg.model_copy(update={"download": cfg.download.model_copy(update={"max_bytes": 9})})
    assert module.manifest_of(other) is None


def test_make_repro_plans_only_when_training_is_due() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.split("\nrepro:")[1].split("\n\n")[0]
    line = next(line for line in recipe.splitlines() if "pipeline.plan --short" in line)
    assert re.search(r"dvc status -q .*train \|\|", line)
    assert recipe.index("pipeline.check") < recipe.index(line) < recipe.index("dvc repro")
    assert re.search(r"(?m)^plan: \.venv/\.runtime$", makefile)
