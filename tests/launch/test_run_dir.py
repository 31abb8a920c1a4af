"""A run's folder: where it is, what run.json records, who may write it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reprogpt.errors import ConfigError
from reprogpt.launch.run_dir import RunDir, runs_root
from reprogpt.training import checkpoint
from tests.tiny_runs import config, make_run


def test_runs_of_a_temporary_checkout_are_the_main_ones(tmp_path: Path) -> None:
    assert runs_root(tmp_path) == tmp_path / "runs"
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    assert runs_root(copy) == tmp_path / "runs"


def test_an_unfinished_run_may_go_on_under_edited_code(tmp_path: Path, tokens: Path) -> None:
    def again(code: str, max_steps: int = 20, **changes: Any) -> RunDir:
        cfg = config(runtime={"resume": old.path.name}, train={"max_steps": max_steps}, **changes)
        return RunDir.create(old.path.parent, code, cfg, old.paths, [("manifest", "12")])

    first = make_run(tmp_path, tokens)
    old = RunDir.create(first.path.parent, "0" * 16, first.config, first.paths,
                        [("manifest", "12")])
    with pytest.raises(ConfigError, match=r"runtime.resume=0{16} has no checkpoint in .*runs"):
        again("1" * 16)
    old.write()
    checkpoint.save(old.path, "step_000004", {"step": 4})
    resumed = again("1" * 16)
    assert resumed.path == old.path
    resumed.write()
    assert RunDir.open(old.path).fingerprint == "1" * 16
    assert "0" * 16 in (old.path / "run.json").read_text(), "every code that trained it is named"
    with pytest.raises(ConfigError, match=r"was trained with seed=1337, not 2: .* null"):
        again("1" * 16, seed=2)
    with pytest.raises(ConfigError, match=r"trained with train.max_steps=20, not 30"):
        again("1" * 16, max_steps=30)
    checkpoint.save(old.path, "step_000020", {"step": 20})
    assert again("1" * 16).path == old.path
    with pytest.raises(ConfigError, match=r"is finished, by other code than this"):
        again("2" * 16)


def test_what_is_written_is_opened_again(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens, train={"lr": 0.0123})
    run.write()
    assert RunDir.open(run.path) == run
    (run.path / "run.json").write_text('{"fingerprints": ["')  # torn
    run.write()
    assert json.loads((run.path / "run.json").read_text())["fingerprints"] == [run.fingerprint]


def test_the_lock_outlives_its_taker_in_a_child_that_holds_it(tmp_path: Path, tokens: Path) -> None:
    run = make_run(tmp_path, tokens)
    lock = run.lock()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                             pass_fds=[lock])
    os.close(lock)
    with pytest.raises(ConfigError, match=rf"another trainer \(process {os.getpid()}\)"):
        run.lock()
    child.communicate(b"\n")
    os.close(run.lock())


@pytest.mark.parametrize("text", ["[]", "null", "7", "{}", "{", "", '{"config": {}}',
                                  '{"fingerprints": [], "paths": {}, "contents": 1, "config": 2}'])
def test_a_run_json_of_other_content_is_one_line_and_is_written_anew(tmp_path, text):
    run = make_run(tmp_path, tmp_path / "tokens")
    file = run.path / "run.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"run\.json: is damaged") as caught:
        RunDir.open(run.path)
    assert "\n" not in str(caught.value)
    checkpoint.save(run.path, "step_000004", {"step": 4})
    with pytest.raises(ConfigError, match="runtime.resume=.* cannot be continued: .*damaged"):
        RunDir.create(run.path.parent, "f" * 16, config(runtime={"resume": run.path.name}),
                      run.paths)
    run.write()
    assert RunDir.open(run.path).fingerprint == run.fingerprint
