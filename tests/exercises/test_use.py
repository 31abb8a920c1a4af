"""A rung of the ladder trains with a learner's own class."""

import math
from pathlib import Path

import pytest

from exercises import use
from ladder.rungs import params
from reprogpt.config import Config, merge
from reprogpt.model.lecture1.models import RUNGS
from tests.exercises.test_check import module, solution
from tests.tiny_runs import TINY, write_tokens

SMALL = {"train": {"max_steps": 60, "eval_interval": 60, "val_tokens": 320, "log_interval": 20},
         "sample": {"max_new_tokens": 12, "prompts": ["a"]}, "runtime": TINY["runtime"]}


def test_every_exercise_with_a_rung_names_one_of_the_ladder() -> None:
    assert {params(rung).model.architecture for rung in use.RUNGS.values()} <= set(RUNGS)


@pytest.mark.parametrize("name", list(use.RUNGS))
def test_a_rung_learns_with_the_solution_in_it(name: str, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config.parse(merge(params(use.RUNGS[name]).model_dump(), SMALL))
    rung, mine = cfg.model.architecture, module(name, solution(name))
    monkeypatch.setitem(RUNGS, rung, RUNGS[rung])  # which `train` replaces
    seen: list[int] = []
    part = {"averaging": "average_softmax", "head": "Head", "heads": "Heads"}[name]
    original = getattr(mine, part)
    monkeypatch.setattr(mine, part, lambda *args: seen.append(1) or original(*args))
    loss, text = use.train(mine, cfg, write_tokens(tmp_path / "tokens"))
    assert seen, "the model was built without the learner's part"
    assert loss < math.log(29)
    assert len(text) == 12
