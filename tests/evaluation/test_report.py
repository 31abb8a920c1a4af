"""The stages evaluate and sample on a small character model, files and all."""

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reprogpt.config import EvaluateConfig, SampleConfig, SuitesConfig, TrainConfig
from reprogpt.errors import ConfigError
from reprogpt.evaluation.published import nearest
from reprogpt.evaluation.report import evaluate
from reprogpt.formats import huggingface as hf
from reprogpt.generation.samples import page, read_prompts, write
from reprogpt.tokens.manifest import Manifest, Totals, write_manifest
from reprogpt.tokens.tokenizers import CharTokenizer
from reprogpt.training.periodic_eval import Probes
from tests.evaluation.test_hellaswag import ALONE, EXAMPLE, LETTERS, Part
from tests.shard_writer import ShardWriter
from tests.small_models import random_model

torch.set_num_threads(1)
TOKENIZER = CharTokenizer(LETTERS.replace("~", ""))
TEXT = "It was the best of times, it was the worst of times. " * 4


def sampling(**changes) -> SampleConfig:
    return SampleConfig(**{"prompts": ["It was", "the `best`"], "num_samples": 2,
                           "max_new_tokens": 8, "temperature": 0.8, "top_k": 20, "top_p": None,
                           **changes})


@pytest.fixture
def root(tmp_path):
    """A project after the stage train."""
    TOKENIZER.save(tmp_path / "data/tokens/tokenizer")
    writer = ShardWriter(tmp_path / "data/tokens", "val", 10**6)
    writer.document()
    writer.write(TOKENIZER.encode(TEXT))
    shards = writer.close()
    totals = {"val": Totals(1, len(TEXT), len(TEXT))}
    write_manifest(tmp_path / "data/tokens", Manifest(
        tuple(shards), totals, {"name": "char", "n_vocab": TOKENIZER.n_vocab,
                                "fingerprint": TOKENIZER.fingerprint},
        {"name": "x", "revision": "0"}))
    (tmp_path / "data/hellaswag").mkdir()
    rows = [EXAMPLE | {"label": i % 4, "ctx": f"~{EXAMPLE['ctx']} {i}"} for i in range(6)]
    (tmp_path / "data/hellaswag/hellaswag_val.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows))
    model = random_model(TOKENIZER.n_vocab, block_size=32, scale=0.3)
    hf.save_model(tmp_path / "models/gpt", model, model.cfg, tmp_path / "data/tokens/tokenizer")
    return tmp_path


def evaluating(**changes) -> EvaluateConfig:
    return EvaluateConfig(**{"val_tokens": None, "hellaswag_examples": 4, **changes})


def test_evaluate_writes_the_contracts_names(root):
    result = evaluate(evaluating(), ALONE, "auto", root)
    saved = json.loads((root / "metrics/eval.json").read_text())
    assert saved == result
    assert saved["val_tokens"] == (len(TEXT) - 1) // 32 * 32
    assert saved["val_perplexity"] == pytest.approx(math.exp(saved["val_loss"]), rel=1e-4)
    # one byte a character: bits per byte are the loss in another unit
    assert saved["val_bits_per_byte"] == pytest.approx(saved["val_loss"] / math.log(2), rel=1e-5)
    assert {"acc", "acc_norm", "lm_eval_acc", "lm_eval_acc_norm"} < saved["hellaswag"].keys()
    assert saved["hellaswag"]["examples"] == 4
    assert saved["hellaswag"]["truncated"] == 4  # no example fits 32 characters
    assert saved["reference"]["gpt2"]["acc_norm"] == 0.2955
    assert saved["reference"]["gpt3"]["acc_norm"] == 0.337
    lines = [json.loads(x) for x in (root / "metrics/hellaswag.jsonl").read_text().splitlines()]
    assert [x["index"] for x in lines] == [0, 1, 3, 4]
    right = sum(x["pred_acc"] == x["label"] for x in lines)
    assert saved["hellaswag"]["acc"] == right / 4


def test_batch_and_processes_change_no_figure(root):
    alone = evaluate(evaluating(), ALONE, "auto", root)
    assert evaluate(evaluating(), ALONE, 40, root) == alone
    parts = [Part(rank, 3, torch.device("cpu")) for rank in range(3)]
    barrier, boards = threading.Barrier(3), []
    found = {}

    class Rounds(list):
        """A board that starts anew with each sum."""

        def append(self, value):
            if len(self) == 3:
                self.clear()
            super().append(value)

    boards = Rounds()
    for part in parts:
        object.__setattr__(part, "board", boards)
        object.__setattr__(part, "barrier", barrier)
    threads = [threading.Thread(target=lambda p=p: found.update(
        {p.rank: evaluate(evaluating(), p, 40, root)})) for p in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: alone, 1: alone, 2: alone}


def test_no_hellaswag_leaves_an_empty_file(root):
    result = evaluate(evaluating(hellaswag_examples=0), ALONE, "auto", root)
    assert result["hellaswag"] == {"examples": 0}
    shown = [row["model"] for row in result["compared"]]  # a plot of DVC's wants some rows
    assert "chance" in shown
    assert "this model" not in shown
    assert (root / "metrics/hellaswag.jsonl").read_bytes() == b""


def test_lower_precision_moves_hellaswag_a_little_and_the_loss_not(root):
    exact = evaluate(evaluating(), ALONE, "auto", root)
    lines = (root / "metrics/hellaswag.jsonl").read_text().splitlines()
    rough = evaluate(evaluating(precision="bfloat16"), ALONE, "auto", root)
    assert rough["val_loss"] == exact["val_loss"]
    for a, b in zip(lines, (root / "metrics/hellaswag.jsonl").read_text().splitlines()):
        assert json.loads(b)["nll"] == pytest.approx(json.loads(a)["nll"], rel=0.05)
        assert a != b


def test_held_out_files_are_scored_to_the_last_token(root):
    (root / "mine").mkdir()
    (root / "mine/a.txt").write_text(TEXT[:75])
    (root / "mine/b.txt").write_text("No.")
    suites = SuitesConfig(held_out=["mine/*.txt"])
    result = evaluate(evaluating(suites=suites, hellaswag_examples=0), ALONE, "auto", root)
    model, _ = hf.load_model(root / "models/gpt")
    ids = torch.from_numpy(TOKENIZER.encode(TEXT[:75]).astype(np.int64))
    losses = []
    for start in range(0, 74, 32):
        idx, y = ids[:-1][start:start + 32], ids[1:][start:start + 32]
        losses.append(F.cross_entropy(model.logits(model(idx[None]))[0], y, reduction="sum"))
    found = result["held_out"]["mine/a.txt"]
    assert found["tokens"] == 74
    assert found["loss"] == pytest.approx(sum(losses).item() / 74, rel=1e-5)
    assert result["held_out"]["mine/b.txt"]["tokens"] == 2


@pytest.mark.parametrize(("content", "message"), [
    (None, "matches no file"), (b"", "is empty"), (b"\xff", "must be text"),
    (b"tilde ~", "tokenizer knows")])
def test_held_out_files_that_cannot_be_scored_are_named(root, content, message):
    if content is not None:
        (root / "mine.txt").write_bytes(content)
    suites = SuitesConfig(held_out=["mine.txt"])
    with pytest.raises(ConfigError, match=message) as caught:
        evaluate(evaluating(suites=suites), ALONE, "auto", root)
    assert "mine.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_held_out_files_may_lie_anywhere(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("texts")
    (elsewhere / "a.txt").write_text(TEXT[:75])
    suites = SuitesConfig(held_out=[f"{elsewhere}/*.txt"])
    result = evaluate(evaluating(suites=suites, hellaswag_examples=0), ALONE, "auto", root)
    assert result["held_out"][f"{elsewhere}/a.txt"]["tokens"] == 74


def test_a_model_of_other_tokens_is_refused(root):
    other = CharTokenizer(LETTERS)
    other.save(root / "models/gpt")
    with pytest.raises(ValueError, match=r"^models/gpt: its tokenizer .* is not that of data") as e:
        evaluate(evaluating(), ALONE, "auto", root)
    assert f"(char, {other.n_vocab} ids)" in str(e.value)
    assert f"(char, {TOKENIZER.n_vocab} ids)" in str(e.value)


def test_references_are_the_nearest_in_size():
    assert nearest(124_439_808)["gpt2"].name == "GPT-2 124M"
    assert nearest(1_500_000_000)["gpt2"].scores["acc_norm"] == 0.4893
    assert nearest(360_000_000)["gpt2"].name == "GPT-2 355M"
    assert nearest(354_000_000)["gpt3"].scores["acc_norm"] == 0.436
    assert nearest(1000)["gpt3"].name == "GPT-3 125M"


def test_the_page_of_samples_has_every_prompt_sample_and_seed(root):
    model, _ = hf.load_model(root / "models/gpt")
    samples = write(model, TOKENIZER, sampling(), seed=5)
    text = page("Samples: x", sampling(), 5, samples)
    assert text.startswith("# Samples: x\n\nTemperature 0.8, top-k 20, at most 8 tokens.\n")
    assert text.count("\n## ") == 2
    for prompt, rows in zip(["It was", "the `best`"], samples):
        assert len(rows) == 2
        for row in rows:
            assert (prompt + row).rstrip() in text
    assert text.count("Sample 1 of 2, seed 5:") == text.count("Sample 2 of 2, seed 6:") == 2


def test_a_sample_can_not_break_out_of_its_block():
    text = page("x", sampling(prompts=["``` \n# not a heading"]), 0, [["a", "b"]])
    assert "````text" in text
    assert "\n## ```` ``` # not a heading ````\n" in text


def test_prompts_also_come_from_a_file(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\ntwo é\n", encoding="utf-8")
    cfg = sampling(prompts_file=str(tmp_path / "p.txt"))
    assert read_prompts(cfg) == ["It was", "the `best`", "one", "two é"]
    with pytest.raises(ConfigError, match="prompts_file"):
        read_prompts(sampling(prompts_file=str(tmp_path / "none.txt")))
    with pytest.raises(ConfigError, match=r"sample.prompts_file='a\\x00b' must be a UTF-8"):
        read_prompts(sampling(prompts_file="a\0b"))


def test_prompts_that_a_character_model_cannot_read_are_named(tmp_path):
    model = random_model(TOKENIZER.n_vocab)
    with pytest.raises(ConfigError, match=r"'~'.*not among the"):
        write(model, TOKENIZER, sampling(prompts=["~"]), 0)
    assert len(write(model, TOKENIZER, sampling(prompts=[""]), 0)[0]) == 2
    (tmp_path / "p.txt").write_text("It was\n~\n")
    with pytest.raises(ConfigError, match=r"yaml: sample.prompts_file='.*p.txt': '~': the char"):
        write(model, TOKENIZER, sampling(prompts_file=str(tmp_path / "p.txt")), 0)


TRAIN = {"max_steps": 10, "batch_tokens": 64, "lr": 1e-3, "min_lr": 0.0, "warmup_steps": 1,
         "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0,
         "schedule": "cosine", "optimizer": "adamw", "precision": "float32",
         "order": "shuffled", "eval_interval": 5, "val_tokens": 64, "log_interval": 1,
         "keep": "last", "deterministic": True}


def probes(root: Path, step: int, sample=None, **changes) -> Probes:
    train = TrainConfig(**{**TRAIN, "hellaswag_interval": 4, "hellaswag_examples": 3,
                           "sample_interval": 2, **changes})
    (root / "run").mkdir(exist_ok=True)
    return Probes(train, sample or sampling(), 5, TOKENIZER, ALONE, at_once=64, step=step,
                  run=root / "run", metrics=root / "metrics",
                  hellaswag_file=root / "data/hellaswag/hellaswag_val.jsonl")


def test_probes_measure_when_due_and_resume_without_repeating(root):
    model, _ = hf.load_model(root / "models/gpt")
    state = torch.get_rng_state()
    first = probes(root, 0)
    for step in range(9):
        first(step, model)
    assert torch.equal(state, torch.get_rng_state())
    csv = (root / "metrics/train_hellaswag.csv").read_text().splitlines()
    assert csv[0].startswith("step,acc,acc_norm,")
    assert [row.split(",")[0] for row in csv[1:]] == ["0", "4", "8"]
    samples = (root / "metrics/train_samples.md").read_text()
    assert [x for x in samples.splitlines() if x.startswith("## ")] == [
        f"## Step {k}" for k in (0, 2, 4, 6, 8)]
    again = probes(root, 5)  # the run was killed after step 8; its last checkpoint was at 5
    for step in range(6, 11):
        again(step, model)
    assert [row.split(",")[0] for row in
            (root / "metrics/train_hellaswag.csv").read_text().splitlines()[1:]] == ["0", "4", "8"]
    assert (root / "metrics/train_samples.md").read_text().startswith(samples)


def test_probes_resume_with_other_prompts(root):
    """`sample` is no param of training: what was written keeps the prompts it was written for."""
    model, _ = hf.load_model(root / "models/gpt")
    probes(root, 0)(0, model)
    again = probes(root, 0, sampling(prompts=["the"]))
    again(2, model)
    before, _, after = (root / "metrics/train_samples.md").read_text().partition("## Step 2")
    assert "It was" in before
    assert "It was" not in after
    assert after


def test_damaged_probes_are_set_aside(root, capfd):
    model, _ = hf.load_model(root / "models/gpt")
    first = probes(root, 0, hellaswag_interval=None)
    for step in range(5):
        first(step, model)
    file = root / "run/probes.jsonl"
    file.write_bytes(file.read_bytes()[:-20] + b"\xff\n")
    again = probes(root, 4, hellaswag_interval=None)
    assert "probes.jsonl: line 3 is damaged; set aside as probes.spoiled" in capfd.readouterr().err
    assert (root / "run/probes.spoiled").is_file()
    again(6, model)
    assert [json.loads(x)["step"] for x in file.read_text().splitlines()] == [0, 2, 6]


def test_probes_that_cannot_be_made_end_the_run_at_its_start(root):
    with pytest.raises(ConfigError, match="sample.prompts: '~'"):
        probes(root, 0, sampling(prompts=["~"]))
    (root / "data/hellaswag/hellaswag_val.jsonl").unlink()
    with pytest.raises(ValueError, match="does not exist; run the stage download"):
        probes(root, 0)


def test_probes_that_are_off_leave_files_that_say_so(root):
    """DVC wants every out of a stage to be there."""
    model, _ = hf.load_model(root / "models/gpt")
    probe = probes(root, 0, hellaswag_interval=None, sample_interval=None)
    assert not probe.due(4)
    probe(0, model)
    assert (root / "metrics/train_hellaswag.csv").read_text().count("\n") == 1
    assert "train.sample_interval" in (root / "metrics/train_samples.md").read_text()
