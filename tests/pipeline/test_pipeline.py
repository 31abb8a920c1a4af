"""The pipeline as people run it: what reruns, what is refused, and that a lock never lies.

One clean copy of the checkout runs `dvc repro` with preset tiny; the tests after it edit copies
of that and ask DVC itself what is out of date.
"""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.checks.code_deps import STAGES
from reprogpt.config import read_yaml
from tests.conftest import ROOT, clean_environment, copy_checkout, edit, run
from tests.tiny_runs import members_in

DVC_YAML = read_yaml(ROOT / "dvc.yaml")["stages"]


# ---- what dvc.yaml says --------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_script_reads_only_the_params_that_dvc_yaml_lists(stage: str) -> None:
    text = (ROOT / f"pipeline/{stage}.py").read_text()
    read = {ast.unparse(n) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)}
    sections = {name.split(".")[1] for name in read if name.startswith("cfg.")}
    listed = {param.split(".")[0] for param in DVC_YAML[stage]["params"]}
    assert sections - {"runtime", "fingerprint"} <= listed
    assert len(text.splitlines()) <= 60
    assert DVC_YAML[stage]["cmd"] == f"exec python -m pipeline.{stage}"
    assert "runtime" not in listed


def test_outputs_are_ignored_by_git_and_small_metrics_are_not() -> None:
    for stage in DVC_YAML.values():
        outs = stage.get("outs", [])
        metrics = [next(iter(m)) if isinstance(m, dict) else m for m in stage.get("metrics", [])]
        for path in outs + metrics:
            ignored = run("git", "check-ignore", "-q", f"{path}", cwd=ROOT).returncode == 0
            assert ignored == (path in outs), path


def test_importing_a_stage_is_quick_and_without_torch() -> None:
    for stage in STAGES:
        script = f"import pipeline.{stage}, sys; sys.exit('torch' in sys.modules)"
        done = run("python", "-c", script, cwd=ROOT)
        assert done.returncode == 0, done.stderr


# ---- the whole run, with preset tiny -------------------------------------------------------------


def dvc(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("dvc", *arguments, cwd=project, **environment)


def make_repository(project: Path) -> Path:
    run("python", "-m", "pipeline.preset", "tiny", cwd=project)
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "clone")):
        assert run("git", *command, cwd=project).returncode == 0
    return project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean clone in which `dvc repro` has run preset tiny. Not to be edited: use `project`."""
    project = make_repository(copy_checkout(tmp_path_factory.mktemp("clone") / "project"))
    done = dvc(project, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished run, to edit; its big files are links into the same cache."""
    copy = tmp_path / "project"
    shutil.copytree(finished, copy, symlinks=True)
    yield copy
    shutil.rmtree(copy)


def would_run(project: Path) -> set[str]:
    """The stages that `dvc repro` would run, by DVC's own account: those whose inputs changed,
    and all that lie downstream of them."""
    status = json.loads(dvc(project, "status", "--json", *STAGES).stdout)
    changed = {stage for stage, reasons in status.items() if reasons}
    graph = {s: set(d["deps"]) for s, d in DVC_YAML.items()}
    made = {out: s for s, d in DVC_YAML.items() for out in d["outs"]}
    for _ in STAGES:
        changed |= {s for s, deps in graph.items() if any(made.get(d) in changed for d in deps)}
    return changed


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first of them waits for the whole run
class TestRun:
    def test_writes_every_output_of_the_contract(self, finished: Path) -> None:
        for path in ("data/raw", "data/hellaswag", "data/init", "data/tokens/manifest.json",
                     "models/gpt/config.json", "models/gpt/model.safetensors", "metrics/train.csv",
                     "metrics/train.json", "metrics/eval.json", "metrics/hellaswag.jsonl",
                     "metrics/samples.md"):
            assert (finished / path).exists(), path
        train = json.loads((finished / "metrics/train.json").read_text())
        assert {"steps", "tokens", "epochs", "unused_tokens", "train_loss", "val_loss",
                "tokens_per_second", "mfu", "seconds", "parameters", "fingerprint"} <= train.keys()
        evaluated = json.loads((finished / "metrics/eval.json").read_text())
        assert {"val_loss", "val_bits_per_byte", "val_tokens", "hellaswag"} <= evaluated.keys()
        assert {"acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm",
                "examples"} <= evaluated["hellaswag"].keys()
        assert len((finished / "metrics/hellaswag.jsonl").read_text().splitlines()) == 4
        header = (finished / "metrics/train.csv").read_text().splitlines()[0]
        assert header == ("step,train_loss,val_loss,lr,grad_norm,tokens,seconds,tokens_per_second")

    def test_leaves_nothing_for_git_but_the_lock_and_the_small_metrics(
        self, finished: Path
    ) -> None:
        status = run("git", "status", "--porcelain", "--untracked-files=all", cwd=finished).stdout
        changed = {line[3:] for line in status.splitlines()}
        assert changed <= {"dvc.lock", "metrics/summary.json"}

    def test_a_second_repro_runs_nothing(self, finished: Path) -> None:
        assert would_run(finished) == set()
        done = dvc(finished, "repro")
        assert "Running stage" not in done.stdout
        assert "up to date" in done.stdout

    @pytest.mark.parametrize(("key", "value", "stages"), [
        ("sample.temperature", "0.5", {"sample"}),
        ("evaluate.hellaswag_examples", "3", {"evaluate"}),
        ("train.weight_decay", "0.2", {"train", "evaluate", "sample"}),
        ("train.optimizer", "muon", {"train", "evaluate", "sample"}),
        ("model.n_layer", "1", {"train", "evaluate", "sample"}),
        ("model.init_from", "gpt2", set(STAGES)),
        ("tokenize.val_fraction", "0.2", {"tokenize", "train", "evaluate", "sample"}),
        ("download.max_bytes", "200_000", set(STAGES)),
        ("runtime.micro_batch", "4", set()),
        ("runtime.nproc", "2", set()),
        ("runtime.checkpoint_interval", "5", set()),
    ])
    def test_an_edit_reruns_only_what_it_changes(
        self, project: Path, key: str, value: str, stages: set[str]
    ) -> None:
        edit(project, key, value)
        assert run("python", "-m", "pipeline.check", cwd=project).returncode == 0
        assert would_run(project) == stages

    def test_editing_a_source_reruns_the_stages_that_import_it(self, project: Path) -> None:
        source = project / "src/reprogpt/evaluation/hellaswag.py"
        source.write_text(source.read_text() + "\n# edited\n")
        assert would_run(project) == {"evaluate"}

    def test_editing_the_typed_params_reruns_nothing(self, project: Path) -> None:
        source = project / "src/reprogpt/config/params.py"
        source.write_text(source.read_text() + "\n# edited\n")
        assert would_run(project) == set()

    def test_bad_params_that_dvc_meets_first_cost_nothing(self, project: Path) -> None:
        """Plain `dvc repro` deletes a stage's outs before the stage can refuse: they come back."""
        edit(project, "train.lr", "-1")
        done = dvc(project, "repro")
        said = [line for line in done.stderr.splitlines() if line.startswith("params.yaml: ")]
        assert done.returncode != 0
        assert len(said) == 1
        assert "train.lr=-1 must be greater than 0; " in said[0]
        assert "the outs that DVC had removed are back" in said[0]
        for path in ("models/gpt/model.safetensors", "metrics/train.csv", "metrics/train.json"):
            assert (project / path).exists(), path
        edit(project, "train.lr", "3e-3")
        done = dvc(project, "repro")
        assert done.returncode == 0, done.stderr
        assert "Running stage" not in done.stdout
        for path in ("models/gpt/model.safetensors", "metrics/train.csv", "metrics/train.json"):
            assert (project / path).exists(), path

    def test_sample_alone_runs_and_the_rest_is_kept(self, project: Path) -> None:
        edit(project, "sample.temperature", "0.5")
        done = dvc(project, "repro")
        assert done.returncode == 0, done.stderr
        assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["sample"]

    def test_params_and_metrics_compare_with_the_last_commit(self, project: Path) -> None:
        run("git", "add", "-A", cwd=project)
        run("git", "commit", "-q", "-m", "run", cwd=project)
        edit(project, "sample.temperature", "0.5")
        diff = json.loads(dvc(project, "params", "diff", "--json").stdout)
        change = diff["params.yaml"]["sample.temperature"]
        assert (change["old"], change["new"]) == (0.8, 0.5)
        shown = json.loads(dvc(project, "metrics", "show", "--json").stdout)
        assert "val_loss" in json.dumps(shown)
        assert shown[""]["data"].keys() == {"metrics/summary.json"}
        path = project / "metrics/summary.json"
        values = json.loads(path.read_text())
        path.unlink()  # never in place: it may be linked
        path.write_text(json.dumps({**values, "val_loss": 1.0}))
        diff = json.loads(dvc(project, "metrics", "diff", "--json").stdout)
        assert diff["metrics/summary.json"]["val_loss"]["new"] == 1.0

    def test_an_experiment_changes_one_param_and_is_shown(self, project: Path) -> None:
        run("git", "add", "-A", cwd=project)
        run("git", "commit", "-q", "-m", "run", cwd=project)
        done = dvc(project, "exp", "run", "-S", "sample.temperature=0.375", "--name", "quick")
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.findall(r"Running stage '(\w+)'", done.stdout) == ["sample"]
        shown = dvc(project, "exp", "show", "--csv").stdout
        assert "quick" in shown
        assert "0.375" in shown

    def test_a_killed_experiment_goes_on_where_it_was(self, project: Path) -> None:
        """DVC throws a failed experiment's folder away: its checkpoints are in the main runs/."""
        run("git", "add", "-A", cwd=project)
        run("git", "commit", "-q", "-m", "run", cwd=project)
        before = set(project.glob("runs/*"))
        command = ["dvc", "exp", "run", "--temp", "-S", "train.max_steps=60", "train"]
        first = subprocess.Popen(command, cwd=project, env=clean_environment(), text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        new: list[Path] = []
        while not (new and list(new[0].glob("step_*.pt"))):
            assert first.poll() is None, first.communicate()[0]
            new = list(set(project.glob("runs/*")) - before)
            time.sleep(0.05)
        launcher = int((new[0] / "lock").read_text())  # the stage itself, which would start again
        for pid in [launcher, *members_in(new[0])]:
            os.kill(pid, signal.SIGKILL)
        said, _ = first.communicate(timeout=120)
        assert first.returncode != 0, said
        again = run(*command, cwd=project)
        said = again.stdout + again.stderr
        assert again.returncode == 0, said
        assert re.search(rf"continuing run {new[0].name} from step [1-9]0", said)

    def test_an_experiment_may_not_set_the_preset_s_name(self, project: Path) -> None:
        run("git", "add", "-A", cwd=project)
        run("git", "commit", "-q", "-m", "run", cwd=project)
        done = dvc(project, "exp", "run", "-S", "preset=gpt2-124m")
        assert done.returncode != 0
        assert "python -m pipeline.preset gpt2-124m" in done.stdout + done.stderr

    def test_plots_open_without_a_network(self, project: Path) -> None:
        done = dvc(project, "plots", "show")
        assert done.returncode == 0, done.stderr
        page = (project / "dvc_plots/index.html").read_text(encoding="utf-8")
        assert not re.search(r"(src|href)=.?https?:", page)
        plots = page.split("</style>")[1]
        for field in ("train_loss", "val_loss", "lr", "tokens_per_second"):
            assert field in plots

    def test_plots_and_report_show_a_run_that_trains_and_ctrl_c_ends_it(self, project: Path
                                                                        ) -> None:
        """DVC holds no lock while a stage runs, and metrics/ has the curve so far."""
        edit(project, "train.max_steps", "100000")
        curve = project / "metrics/loss.csv"
        before = curve.read_text()
        repro = subprocess.Popen(["dvc", "repro"], cwd=project, env=clean_environment(), text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 start_new_session=True)
        wait_for(lambda: curve.is_file() and curve.read_text() != before
                 and len(curve.read_text().splitlines()) > 3, repro)
        logged = curve.read_text().splitlines()[3].split(",")
        done = dvc(project, "plots", "show")
        assert done.returncode == 0, done.stderr
        plots = (project / "dvc_plots/index.html").read_text().split("</style>")[1]
        assert f'"step": "{logged[0]}", "train_loss": "{logged[1]}"' in plots
        done = run("python", "-m", "pipeline.report", cwd=project)
        assert done.returncode == 0, done.stderr
        assert "an unfinished run" in (project / "report.html").read_text()
        assert repro.poll() is None
        os.killpg(repro.pid, signal.SIGINT)  # what a terminal sends to all of its group
        said, _ = repro.communicate(timeout=120)
        assert repro.returncode != 0
        assert "Traceback" not in said
        assert "checkpoint saved; the same command continues" in said
        assert "\r" not in said  # no bar in a log
        assert len([line for line in said.splitlines() if line.startswith("train: ")]) > 1

    def test_a_lock_never_lies_about_an_edit_during_training(self, project: Path) -> None:
        lock = (project / "dvc.lock").read_bytes()
        edit(project, "train.max_steps", "40")
        before = {path.parent for path in project.glob("runs/*/step_*.pt")}
        repro = subprocess.Popen(["dvc", "repro"], cwd=project, env=clean_environment(), text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for(lambda: {p.parent for p in project.glob("runs/*/step_*.pt")} != before, repro)
        edit(project, "train.weight_decay", "0.3")
        said, _ = repro.communicate(timeout=120)
        assert repro.returncode != 0
        assert ("params.yaml changed while training: train.weight_decay 0.1 -> 0.3; "
                "put it back and run dvc repro") in said
        assert (project / "dvc.lock").read_bytes() == lock
        edit(project, "train.weight_decay", "0.1")
        done = dvc(project, "repro")  # the finished checkpoint makes it free
        assert done.returncode == 0, done.stdout + done.stderr
        locked = read_yaml(project / "dvc.lock")["stages"]["train"]["params"]
        assert locked["params.yaml"]["train"]["max_steps"] == 40
        edit(project, "train.max_steps", "20")
        done = dvc(project, "repro")  # what was run before is taken from the run-cache
        assert "Running stage" not in done.stdout
        assert (project / "dvc.lock").read_bytes() == lock


def wait_for(done: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
