"""Code deps are import closures, and DVC itself agrees on what an edit reruns."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.checks.code_deps import (
    EXEMPT,
    IMPORTED_BY_NAME,
    LADDER_STAGES,
    STAGES,
    closure,
    code_deps,
)
from pipeline.checks.seal import Seal
from reprogpt.config import TrainConfig, flatten, read_yaml
from tests.conftest import ROOT, run

FILES = [("dvc.yaml", "pipeline", stage) for stage in STAGES]
FILES += [("ladder/dvc.yaml", "ladder", stage) for stage in LADDER_STAGES]
FILES += [("ladder/sweeps/dvc.yaml", "ladder/sweeps", "sweep")]
FILES += [("scaling/dvc.yaml", "scaling", stage)
          for stage in ("tokens", "train", "predict", "held_out", "page")]


@pytest.mark.parametrize(("dvc_file", "scripts", "stage"), FILES)
def test_code_deps_are_the_import_closure(dvc_file: str, scripts: str, stage: str) -> None:
    deps = read_yaml(ROOT / dvc_file)["stages"][stage]["deps"]
    listed = [dep for dep in deps if dep.endswith(".py")]
    assert listed == code_deps(stage, ROOT, scripts), \
        "run `python -m pipeline.checks.code_deps --write`"


def test_lecture_1_is_a_dep_of_the_ladder_alone() -> None:
    lecture = {p.relative_to(ROOT).as_posix()
               for p in (ROOT / "src/reprogpt/model/lecture1").glob("[!_]*.py")}
    assert lecture <= set(code_deps("climb", ROOT, "ladder"))
    for stage in STAGES:
        assert not lecture & set(code_deps(stage, ROOT))


def test_every_exemption_is_used_and_has_a_reason() -> None:
    imported = set().union(*(closure(ROOT / scripts / f"{stage}.py", ROOT)
                             for _, scripts, stage in FILES))
    for name, reason in EXEMPT.items():
        assert any(file.startswith(name) for file in imported), name
        assert len(reason) > 16


def test_the_closure_sees_imports_in_functions_and_modules_started_by_name(tmp_path: Path) -> None:
    package = tmp_path / "src/reprogpt"
    package.mkdir(parents=True)
    (tmp_path / "script.py").write_text(
        "from importlib import import_module\n"
        "def f():\n    from reprogpt import inner\n    import_module('.hidden', 'reprogpt')\n"
        "COMMAND = ['-m', 'reprogpt.started']\n")
    for name in ("__init__", "inner", "started", "hidden", "unused"):
        (package / f"{name}.py").write_text("")
    (package / "started.py").write_text("import reprogpt.deep\n")
    (package / "deep.py").write_text("")
    found = {Path(f).stem for f in closure(tmp_path / "script.py", tmp_path)}
    assert found == {"script", "__init__", "inner", "started", "deep"}


def test_write_corrects_both_files(checkout: Path) -> None:
    command = ("python", "-m", "pipeline.checks.code_deps")
    assert run(*command, cwd=checkout).returncode == 0
    before = [(checkout / name).read_bytes() for name in ("dvc.yaml", "ladder/dvc.yaml")]
    source = checkout / "src/reprogpt/model/switches.py"
    source.rename(source.with_name("rope.py"))
    gpt = checkout / "src/reprogpt/model/gpt.py"
    gpt.write_text(gpt.read_text().replace("import switches", "import rope"))
    done = run(*command, cwd=checkout)
    assert done.returncode == 1
    for stage in ("train", "evaluate", "sample", "climb"):
        assert f"{stage}: - src/reprogpt/model/switches.py" in done.stdout
        assert f"{stage}: + src/reprogpt/model/rope.py" in done.stdout
    assert run(*command, "--write", cwd=checkout).returncode == 0
    assert run(*command, cwd=checkout).stdout == ""
    after = [(checkout / name).read_bytes() for name in ("dvc.yaml", "ladder/dvc.yaml")]
    for old, new in zip(before, after, strict=True):  # nothing but the names has changed
        assert sorted(old.replace(b"model/switches", b"model/rope").split()) == \
            sorted(new.split())


def changed_deps(project: Path) -> dict[str, dict[str, str]]:
    """By DVC's own account: each stage's code deps that are not those in dvc.lock."""
    done = run("dvc", "status", "--json", "dvc.yaml", cwd=project)
    status: dict[str, Any] = json.loads(done.stdout)
    found = {}
    for stage, reasons in status.items():
        deps = [r["changed deps"] for r in reasons if isinstance(r, dict) and "changed deps" in r]
        found[stage] = {k: v for dep in deps for k, v in dep.items() if k.endswith(".py")}
    return {stage: deps for stage, deps in found.items() if deps}


@pytest.fixture
def locked(checkout: Path) -> Path:
    """A checkout whose dvc.lock has the code as it is."""
    assert run("git", "init", "-q", cwd=checkout).returncode == 0
    lock = checkout / "dvc.lock"
    locked = read_yaml(lock)
    for stage, deps in changed_deps(checkout).items():
        entries = {dep["path"]: dep for dep in locked["stages"][stage]["deps"]}
        for path in deps:
            content = (checkout / path).read_bytes()
            entries[path] = {"path": path, "hash": "md5", "size": len(content),
                             "md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}
        locked["stages"][stage]["deps"] = list(entries.values())
    lock.write_text(json.dumps(locked))  # JSON is YAML
    assert changed_deps(checkout) == {}
    return checkout


def test_a_comment_in_lecture_1_reruns_no_stage_of_the_pipeline(locked: Path) -> None:
    for source in (locked / "src/reprogpt/model/lecture1").glob("*.py"):
        source.write_text(source.read_text() + "\n# edited\n")
    assert changed_deps(locked) == {}
    gpt = locked / "src/reprogpt/model/gpt.py"
    gpt.write_text(gpt.read_text() + "\n# edited\n")
    assert changed_deps(locked) == {stage: {"src/reprogpt/model/gpt.py": "modified"}
                                      for stage in ("train", "evaluate", "sample")}


def test_a_run_depends_on_its_own_optimizer_alone(locked: Path) -> None:
    def edit(name: str) -> str:
        source = locked / f"src/reprogpt/training/{name}.py"
        source.write_text(source.read_text() + "\n# edited\n")
        return f"src/reprogpt/training/{name}.py"

    muon = edit("muon")
    assert changed_deps(locked) == {}
    sealed = {Path(source).name for source in Seal.take("train", locked / "dvc.yaml").sources}
    assert "adamw.py" in sealed
    assert "muon.py" not in sealed
    params = locked / "params.yaml"
    adamw = params.read_text()
    assert "optimizer: adamw" in adamw
    params.write_text(adamw.replace("optimizer: adamw", "optimizer: muon"))
    assert changed_deps(locked)["train"].keys() == {muon}
    params.write_text(adamw)
    dep = edit("adamw")
    assert changed_deps(locked) == {"train": {dep: "modified"}}


@pytest.mark.parametrize("template", IMPORTED_BY_NAME.values())
def test_what_is_imported_by_name_needs_no_file_that_is_no_dep(template: str) -> None:
    params = flatten(read_yaml(ROOT / "params.yaml"))
    key = template.split("${")[1].split("}")[0]
    assert (ROOT / template.replace(f"${{{key}}}", str(params[key]))).is_file()
    listed = set(code_deps("train", ROOT))
    for choice in TrainConfig.model_fields[key.removeprefix("train.")].annotation.__args__:
        file = ROOT / template.replace(f"${{{key}}}", choice)
        needed = {f for f in closure(file, ROOT) - {file.relative_to(ROOT).as_posix()}
                  if not f.startswith(tuple(EXEMPT)) and not f.endswith("/__init__.py")}
        assert needed <= listed, choice
