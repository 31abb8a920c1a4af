"""The registry builds what model.architecture names, and imports lecture 1 only for its own."""

import pytest
import torch

from reprogpt.config import ARCHITECTURES
from reprogpt.model.gpt import GPT
from reprogpt.model.registry import build_model
from tests.conftest import ROOT, run
from tests.small_models import model_config


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_built(name: str) -> None:
    with torch.device("meta"):
        model = build_model(model_config(architecture=name), 70)
    assert isinstance(model, GPT) == (name == "gpt")
    assert model.num_parameters() > 0


def test_a_gpt_needs_no_lecture() -> None:
    script = ("import sys\nfrom tests.small_models import random_model\nrandom_model()\n"
              "sys.exit('reprogpt.model.lecture1' in sys.modules)")
    assert run("python", "-c", script, cwd=ROOT, PYTHONPATH="src").returncode == 0


def test_shapes_take_no_memory_and_not_the_compiler() -> None:
    """2^38 parameters, which would be a terabyte; importing torch's compiler takes 3 seconds."""
    script = ("import sys\nfrom reprogpt.model.registry import model_shapes\n"
              "from tests.small_models import model_config\n"
              "model = model_shapes(model_config(n_embd=2**20), 2**18)\n"
              "assert model.wte.weight.shape == (2**18, 2**20)\n"
              "sys.exit('torch._dynamo' in sys.modules)")
    assert run("python", "-c", script, cwd=ROOT, PYTHONPATH="src").returncode == 0
