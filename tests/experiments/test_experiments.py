"""Every command of docs/experiments.md, run in its order on a clean clone with the preset tiny."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from tests.conftest import ROOT, clean_environment, copy_checkout, edit, run
from tests.s3_server import s3_server

SECTIONS = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)",
                           (ROOT / "docs/experiments.md").read_text()))


def commands(section: str) -> list[str]:
    """The commands of a section: the indented lines that begin as a command does."""
    lines = re.findall(r"(?m)^ {4}(\S.*)$", SECTIONS[section])
    return [line for line in lines if line.startswith(("dvc ", "git ", "python "))]


class Clone:
    """A clean clone. ``store``: the remote that stands for /tmp/store."""

    def __init__(self, path: Path, store: Path, **environment: str) -> None:
        self.path, self.store, self.environment = path, store, environment

    def __call__(self, command: str) -> str:
        """Runs a command, which must succeed, and returns its output."""
        command = command.replace("/tmp/store", str(self.store))
        done = run("bash", "-c", command.replace("/tmp/other", f"{self.store}-other"),
                   cwd=self.path, COLUMNS="100", **self.environment)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        if command == "dvc queue start":
            self.wait(lambda: not re.search("Running|Queued", self("dvc queue status")))
        return done.stdout + done.stderr

    def section(self, name: str) -> dict[str, str]:
        """Runs a section's commands; their outputs."""
        assert commands(name)
        return {command: self(command) for command in commands(name)}

    def figures(self) -> dict[str, float]:
        return json.loads((self.path / "metrics/summary.json").read_text())

    def shown(self) -> list[dict[str, Any]]:
        """The baseline's experiments, as DVC has them."""
        return [exp["revs"][0] for exp in json.loads(self("dvc exp show --json"))[1]["experiments"]]

    @staticmethod
    def wait(done: Callable[[], object]) -> None:
        deadline = time.monotonic() + 150
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.5)


@pytest.fixture(scope="class")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    folder = tmp_path_factory.mktemp("experiments")
    source = copy_checkout(folder / "source")
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        assert run("git", *command, cwd=source).returncode == 0
    run("git", "clone", "-q", "--bare", "source", "origin", cwd=folder)
    run("git", "clone", "-q", "origin", "clone", cwd=folder)
    clone = Clone(folder / "clone", folder / "store")
    clone("python -m pipeline.preset tiny")
    return clone


@pytest.mark.slow
@pytest.mark.timeout(400)
class TestADayOfExperiments:
    """In the order of the page: each test continues where the one before it ended."""

    def test_dvc_s_verbs_on_a_fresh_clone(self, clone: Clone) -> None:
        for command in ("dvc checkout --allow-missing", "dvc metrics show", "dvc params diff",
                        "dvc exp list", "dvc status dvc.yaml"):
            clone(command)
        assert clone.figures()["val_loss"] == pytest.approx(5.36, abs=0.5)  # the default run's

    def test_baseline(self, clone: Clone) -> None:
        clone.section("A baseline")
        assert clone.figures().keys() == {"val_loss", "bpb", "acc_norm", "tok_s"}
        assert clone("git status --porcelain") == ""
        for command in ("dvc checkout", "dvc pull"):  # no error, though no rung was climbed
            clone(command)

    def test_sweep(self, clone: Clone) -> None:
        said = clone.section("A sweep")
        lrs = {exp["data"]["params"]["params.yaml"]["data"]["train"]["lr"] for exp in clone.shown()}
        assert lrs == {5e-3, 1e-2}
        table = said["dvc exp show --only-changed --no-pager"]
        assert max(map(len, table.splitlines())) <= 100
        for column in ("val_loss", "bpb", "tok_s", "train.lr", "lr-2"):
            assert column in table
        assert "fingerprint" not in clone("dvc exp show --csv").splitlines()[0]
        assert clone("git status --porcelain") == ""  # a queued run leaves the workspace alone

    def test_seeds(self, clone: Clone) -> None:
        said = clone.section("Seeds and noise")["python -m pipeline.seeds"]
        seeds = [exp["data"] for exp in clone.shown()
                 if exp["data"]["params"]["params.yaml"]["data"]["seed"] != 1337]
        losses = [clone.figures()["val_loss"],
                  *(data["metrics"]["metrics/summary.json"]["data"]["val_loss"] for data in seeds)]
        assert len(set(losses)) == 3
        assert said.splitlines()[0].startswith("seeds 1, 2, 1337; ")
        assert len(re.findall("^seeds", said, re.MULTILINE)) == 1  # the sweep's runs stand alone
        assert re.search(rf"val_loss +{mean(losses):.5g} ± {stdev(losses):.2g}\n", said)

    def test_compare(self, clone: Clone) -> None:
        said = clone.section("Compare")
        assert re.search(r"train\.lr +0\.003 +0\.01", said["dvc params diff HEAD lr-2"])
        assert "val_loss" in said["dvc metrics diff HEAD lr-2"]
        assert "val_perplexity" not in said["dvc metrics diff HEAD lr-2"]

    def test_keep_one(self, clone: Clone) -> None:
        before = clone.figures()["val_loss"]
        clone.section("Keep one")
        assert clone.figures()["val_loss"] != before
        assert "lr: 0.01" in (clone.path / "params.yaml").read_text()
        assert "higher-lr" in clone("git branch")
        assert "up to date" in clone("dvc status dvc.yaml")

    def test_share(self, clone: Clone) -> None:
        mine, theirs = commands("Share")[:3], commands("Share")[3:]
        for command in mine:
            clone(command)
        clone("git push -q origin main")
        self.pull(clone, theirs)

    def pull(self, clone: Clone, theirs: list[str], **environment: str) -> None:
        """A colleague's commands, in a clone of the shared repository."""
        run("git", "clone", "-q", "origin", "colleague", cwd=clone.path.parent)
        colleague = Clone(clone.path.parent / "colleague", clone.store, **environment)
        said = {command: colleague(command) for command in theirs}
        assert "Running stage" not in said["dvc repro --pull"]
        assert "lr-2" in colleague("dvc exp list --all-commits")
        name = "models/gpt/model.safetensors"
        assert (colleague.path / name).read_bytes() == (clone.path / name).read_bytes()
        shutil.rmtree(colleague.path)

    def test_share_by_s3(self, clone: Clone) -> None:
        with s3_server() as (_, environment):
            mine = [line.replace("my-bucket", "bucket") for line in commands("Share by S3")]
            again = Clone(clone.path, clone.store, **environment)
            for command in mine:
                again(command)
            self.pull(clone, [mine[0], *commands("Share")[4:]], **environment)
        clone(commands("Share")[0].replace("add", "add --force"))

    def test_interruption(self, clone: Clone) -> None:
        edit(clone.path, "train.max_steps", "60")
        before = set(clone.path.glob("runs/*"))
        first = subprocess.Popen(["dvc", "repro"], cwd=clone.path, env=clean_environment(),
                                 text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 start_new_session=True)
        clone.wait(lambda: [step for folder in set(clone.path.glob("runs/*")) - before
                            for step in folder.glob("step_*.pt")])
        os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C in a terminal
        said, _ = first.communicate(timeout=120)
        assert first.returncode != 0, said
        said = clone.section("After an interruption")["dvc repro"]
        assert re.search(r"continuing run \w+ from step [1-9]", said), said

    def test_cosmetic_edit(self, clone: Clone) -> None:
        file = clone.path / "src/reprogpt/generation/generate.py"
        file.write_text(file.read_text() + "\n# a comment\n")
        said = clone.section("After a cosmetic edit")["dvc status dvc.yaml"]
        assert re.findall(r"(?m)^(\w+):", said) == ["evaluate", "sample"]
        assert "up to date" in clone("dvc status dvc.yaml")
        assert "Running stage" not in clone("dvc repro")

    def test_cleaning_up(self, clone: Clone) -> None:
        edit(clone.path, "sample.temperature", "0.25")
        clone("dvc repro")
        edit(clone.path, "sample.temperature", "0.8")
        clone("dvc repro")
        before = len(list(clone.path.glob(".dvc/cache/files/md5/*/*")))
        clone.section("Clean up")
        assert len(list(clone.path.glob(".dvc/cache/files/md5/*/*"))) < before
        assert "lr-2" not in clone("dvc exp list --all-commits")
        assert "up to date" in clone("dvc status dvc.yaml")
        clone("dvc checkout")
