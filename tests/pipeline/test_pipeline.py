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
import yaml

from pipeline.checks.code_deps import STAGES
from tests.conftest import ROOT, clean_environment, copy_checkout, run
from tests.tiny_runs import members_in

DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


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


# ---- the border: exit code 2 before anything is touched ------------------------------------------


def edit(project: Path, key: str, value: str) -> None:
    """Sets `section.key` (or a top-level key) in params.yaml, leaving the rest as it is."""
    *section, name = key.split(".")
    text = (project / "params.yaml").read_text()
    head, body = ("", text) if not section else re.split(rf"(?m)(?<=^{section[0]}:\n)", text)
    indent = "  " * len(section)
    body, count = re.subn(rf"(?m)^{indent}{name}: \S.*?(?=  +#|$)", f"{indent}{name}: {value}",
                          body, count=1)
    assert count == 1, key
    (project / "params.yaml").write_text(head + body)


@pytest.mark.parametrize("stage", STAGES)
def test_bad_params_end_in_one_line_and_exit_code_2(stage: str, checkout: Path) -> None:
    edit(checkout, "train.lr", "-1")
    before = sorted(p for p in checkout.rglob("*") if "__pycache__" not in p.parts)
    done = run("python", "-m", f"pipeline.{stage}", cwd=checkout)
    assert done.returncode == 2
    assert done.stderr.startswith("params.yaml: train.lr=-1 must be a number > 0; ")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(p for p in checkout.rglob("*") if "__pycache__" not in p.parts) == before


def test_check_looks_at_every_section_before_dvc_deletes_anything(checkout: Path) -> None:
    assert run("python", "-m", "pipeline.check", cwd=checkout).returncode == 0
    edit(checkout, "runtime.nproc", "none")
    done = run("python", "-m", "pipeline.check", cwd=checkout)
    assert done.returncode == 2
    assert "runtime.nproc=none must be a whole number >= 1, or auto" in done.stderr


def test_outs_behind_a_link_are_refused_before_the_download(checkout: Path, tmp_path: Path) -> None:
    """DVC would say so too, once all is downloaded."""
    (tmp_path / "disk").mkdir()
    (checkout / "data").symlink_to(tmp_path / "disk")
    done = run("python", "-m", "pipeline.download", cwd=checkout)
    assert done.returncode == 2
    assert done.stderr.startswith(f"data: is a link to {tmp_path / 'disk'}, outside of this check")
    assert "dvc cache dir" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not any((tmp_path / "disk").iterdir())


def test_make_repro_checks_before_it_starts_dvc() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\nrepro:")[1].split("\n\n")[0]
    assert recipe.index("pipeline.check") < recipe.index("dvc repro")


# ---- the seal ------------------------------------------------------------------------------------

EDITOR = """
import sys
from pathlib import Path
from pipeline import stage
with stage({stage!r}):
    path = Path({path!r})
    path.write_text(path.read_text().replace({old!r}, {new!r}))
"""


def sealed(project: Path, stage: str, path: str, old: str, new: str) -> tuple[int, str]:
    """A stage in whose body a file is edited: (exit code, standard error)."""
    assert old in (project / path).read_text()
    script = EDITOR.format(stage=stage, path=path, old=old, new=new)
    done = run("python", "-c", script, cwd=project)
    return done.returncode, done.stderr


def test_an_edit_of_its_params_while_a_stage_runs_is_named(checkout: Path) -> None:
    code, said = sealed(checkout, "sample", "params.yaml", "top_k: 50", "top_k: 7")
    assert code == 1
    assert said == ("params.yaml changed while sampling: sample.top_k 50 -> 7; "
                    "put it back and run dvc repro\n")


def test_an_edit_of_another_stage_s_params_breaks_no_seal(checkout: Path) -> None:
    assert sealed(checkout, "train", "params.yaml", "top_k: 50", "top_k: 7") == (0, "")


def test_a_switch_that_appears_while_a_stage_runs_is_named(checkout: Path) -> None:
    code, said = sealed(checkout, "train", "params.yaml", "  deterministic: true\n",
                        "  deterministic: true\n  max_loss_spike: 3.0\n")
    assert code == 1
    assert "train.max_loss_spike absent -> 3" in said


def test_a_params_file_that_no_longer_parses_breaks_the_seal(checkout: Path) -> None:
    code, said = sealed(checkout, "sample", "params.yaml", "sample:", "sample: [")
    assert code == 1
    assert "changed while sampling" in said


def test_an_edit_of_its_source_while_a_stage_runs_is_named(checkout: Path) -> None:
    code, said = sealed(checkout, "train", "src/reprogpt/model/gpt.py", "import torch\n",
                        "import torch  # edited\n")
    assert code == 1
    assert said == ("src/reprogpt/model/gpt.py changed while training; "
                    "put it back and run dvc repro\n")


def test_a_config_error_inside_a_stage_is_one_line_and_exit_code_2(checkout: Path) -> None:
    script = ("from pipeline import stage\nfrom reprogpt.errors import ConfigError\n"
              "with stage('sample'):\n    raise ConfigError('said plainly')\n")
    done = run("python", "-c", script, cwd=checkout)
    assert (done.returncode, done.stderr) == (2, "said plainly\n")


@pytest.mark.parametrize(("raised", "code", "said"), [
    ("OSError(28, 'No space left on device', 'metrics/x')", 1,
     "sample: metrics/x: No space left on device; free some space, then the same command goes on "
     "from what is finished\n"),
    ("OSError('x: a damaged piece was removed; run the stage again')", 1,
     "sample: x: a damaged piece was removed; run the stage again\n"),
    ("KeyboardInterrupt", 130,
     "sample: interrupted; the same command goes on from what is finished\n"),
])
def test_a_disk_and_ctrl_c_are_one_line_too(checkout: Path, raised: str, code: int, said: str
                                            ) -> None:
    script = f"from pipeline import stage\nwith stage('sample'):\n    raise {raised}\n"
    done = run("python", "-c", script, cwd=checkout)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_stage_imports_this_checkout_whatever_is_installed(checkout: Path) -> None:
    script = ("import os, pipeline, reprogpt, subprocess, sys\n"
              "print(reprogpt.__file__)\n"
              "subprocess.run([sys.executable, '-c', 'import reprogpt; print(reprogpt.__file__)'])")
    done = run("python", "-c", script, cwd=checkout)
    assert done.stderr == ""
    assert set(done.stdout.split()) == {str(checkout / "src/reprogpt/__init__.py")}


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
        assert changed <= {"dvc.lock", "metrics/train.json", "metrics/eval.json"}

    def test_a_second_repro_runs_nothing(self, finished: Path) -> None:
        assert would_run(finished) == set()
        done = dvc(finished, "repro")
        assert "Running stage" not in done.stdout
        assert "up to date" in done.stdout

    @pytest.mark.parametrize(("key", "value", "stages"), [
        ("sample.temperature", "0.5", {"sample"}),
        ("evaluate.hellaswag_examples", "3", {"evaluate"}),
        ("train.weight_decay", "0.2", {"train", "evaluate", "sample"}),
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
        assert "train.lr=-1 must be a number > 0; " in said[0]
        assert "`dvc repro` also brings back what DVC has just removed" in said[0]
        assert not (project / "models/gpt").exists()
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
        assert shown[""]["data"].keys() == {"metrics/train.json", "metrics/eval.json"}
        path = project / "metrics/eval.json"
        values = json.loads(path.read_text())
        path.unlink()  # never in place: it may be linked
        path.write_text(json.dumps({**values, "val_loss": 1.0}))
        diff = json.loads(dvc(project, "metrics", "diff", "--json").stdout)
        assert diff["metrics/eval.json"]["val_loss"]["new"] == 1.0

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
        for pid in members_in(new[0]):
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
        locked = yaml.safe_load((project / "dvc.lock").read_text())["stages"]["train"]["params"]
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
