"""The page is read back: its numbers, what it leaves out, and that it needs no other file."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from reprogpt.evaluation.compare_runs import mcnemar_p
from reprogpt.evaluation.published import METRICS
from reprogpt.evaluation.report_page import model_panels, page, stage_rows
from reprogpt.evaluation.run_record import RunRecord
from reprogpt.formats.huggingface import save_model
from tests.small_models import model_config, random_model
from tests.tiny_runs import write_tokens

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def run(name, correct=(), **changes):
    """A finished run that answers these of 40 questions correctly."""
    step = np.arange(10.0, 1010, 10)
    curve = {"step": step, "tokens": 512 * step, "seconds": step / 10, "lr": step * 1e-6,
             "train_loss": 5 + 50 / step, "val_loss": np.where(step % 100, np.nan, 5.5),
             "grad_norm": np.ones(100), "tokens_per_second": np.full(100, 5120.0)}
    share = len(correct) / 40
    values = {
        "params": {"preset": "shakespeare", "train.lr": 0.003, "train.max_steps": 2000},
        "curve": curve,
        "train": {"steps": 1000, "tokens": 512000, "parameters": 3520576, "seconds": 100.4,
                  "tokens_per_second": 5099.6, "mfu": None, "epochs": 0.3724},
        "scores": {"val_loss": 5.3614, "val_bits_per_byte": 2.3657,
                   "hellaswag": {"examples": 40} | dict.fromkeys(METRICS, share)},
        "questions": {i: {"label": 0} | {f"pred_{metric}": int(i not in correct)
                                         for metric in METRICS} for i in range(40)},
        "samples": "# Samples\n\n## `ROMEO:`\n\nSample 1 of 1, seed 1:\n\n"
                   "```text\nROMEO: <script>alert(1)</script>\n```\n"}
    return RunRecord(name, **{**values, **changes})


class Reader(HTMLParser):
    """Elements of a page, what they refer to, and the text of those with an id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.texts, self._open = [], [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name.split(":")[-1] in ("src", "href", "action", "data", "poster"):
                self.addresses.append(value)
        self._open.append(dict(attrs).get("id"))
        if tag in ("meta", "br", "link", "img", "input"):
            self._open.pop()

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        for name in filter(None, self._open):
            self.texts.setdefault(name, []).append(data)

    def cells(self, name):
        return [text for text in map(str.strip, self.texts[name]) if text]


PRESET = {"preset": "shakespeare", "train.lr": 0.001, "train.max_steps": 2000}


def single(record=None, panels=None):
    return page([record or run("this run", range(10))], PRESET, {"commit": "abc"},
                stage_rows({"train": ("2026-01-01 00:00:00", 9.0)}, 100.0, None), panels or {})


def test_arithmetic_shows_the_share_solved_by_digits():
    scores = {"val_loss": 1.0, "task": {}, "hellaswag": {"examples": 0},
              "solved": [{"kind": "1-digit +", "solved": 1}, {"kind": "2-digit *", "solved": 0.8}]}
    text = single(run("this run", scores=scores))
    assert "2-digit *: 0.800" in text
    assert "share of problems solved" in text
    assert "no problems" not in single()


@pytest.fixture(scope="module")
def model_page(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    tokens = write_tokens(root / "data/tokens")
    save_model(root / "models/gpt", random_model(29), model_config(), tokens / "tokenizer")
    return single(panels=model_panels(root, "cpu", "abc abc", 1, 0))


def test_a_page_needs_no_other_file(model_page):
    found = Reader(model_page)
    assert found.tags.count("svg") == 8
    assert found.addresses
    assert all(re.match(r"#|data:image/png;base64,", address) for address in found.addresses)
    assert not {"link", "img", "iframe", "object"} & set(found.tags)
    assert not re.search(r"https?:|url\((?!#)|@import|@font-face", model_page)
    assert found.tags.count("script") == 1  # the numbers


def test_the_numbers_are_in_the_page():
    text = single()
    for shown in ("5.3614", "2.3657", "0.2500 ± 0.0685", "512k", "3.52M", "5,100", "0:01:40"):
        assert f"<b>{shown}</b>" in text
    assert Reader(text).cells("params") == ["preset shakespeare", "this run", "train.lr", "0.001",
                                            "0.003"]
    assert re.search(r">validation, last 5.500</text>", text)
    assert re.search(r">0.337</text>", text)  # GPT-3
    data = json.loads(Reader(text).texts["data"][0])
    curve = data["runs"][0]["curve"]
    assert curve["train_loss"][4] == 6.0
    assert curve["val_loss"][8:10] == [None, 5.5]


def test_samples_are_text_not_markup():
    text = single()
    assert "ROMEO: &lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<h3>ROMEO:</h3>" in text


def test_panels_without_data_are_absent():
    text = single(run("this run", scores={}, questions={}, samples="", train={}))
    found = Reader(text)
    assert found.tags.count("svg") == 4
    assert "an unfinished run" in text
    assert "<b>1,000 of 2,000</b>" in text
    for heading in ("Evaluation", "Samples", "Stages", "Attention", "passage"):
        assert not re.search(rf"<h[23]>[^<]*{heading}", text)
    assert "svg" not in Reader(single(run("this run", curve={}, scores={}, samples=""))).tags


def test_stages_have_their_times_and_price():
    stages = {"download": ("10:00", 1.25), "train": ("11:00", 1800.0), "sample": ("11:05", None)}
    assert stage_rows(stages, 5400.0, 2.0) == [
        ("", "finished", "took", "cost"), ("download", "10:00", "1.2 s", "0.00 $"),
        ("train", "11:00", "1:30:00", "3.00 $"),  # of which the last start made a third
        ("sample", "11:05", "unknown", ""), ("together", "", "1:30:01", "3.00 $")]
    assert stage_rows(stages, 5400.0, None)[2] == ("train", "11:00", "1:30:00")
    assert stage_rows({}, None, None) == []
    found = Reader(page([run("this run", range(3))], PRESET, {}, stage_rows(stages, 0, 2), {}))
    assert found.cells("stages")[3:7] == ["download", "10:00", "1.2 s", "0.00 $"]


def test_several_runs_stand_side_by_side():
    a, b = run("a", range(10)), run("b", range(4, 20), params={"preset": "shakespeare",
                                                             "train.lr": 0.1, "seed": 2})
    text = page([a, b], {}, {}, [], {})
    found = Reader(text)
    assert found.cells("params")[:8] == ["a", "b", "train.lr", "0.003", "0.1", "train.max_steps",
                                         "2000", "absent"]
    rows = found.cells("metrics")
    assert rows[rows.index("HellaSwag acc_norm"):][:3] == ["HellaSwag acc_norm", "0.2500 ± 0.0685",
                                                           "0.4000 ± 0.0775"]
    cells = found.cells("pairs")
    at = cells.index("acc_norm")
    assert cells[at + 1:at + 6] == ["6", "4", "10", "20", f"{mcnemar_p(4, 10):.2g}"]
    assert "Samples</h2>" not in text


def test_a_passage_is_colored_by_loss_and_a_prompt_has_its_attention(model_page):
    found = Reader(model_page)
    shades = re.findall(r'<span style="background: rgba\(208, 102, 28, ([\d.]+)\)" '
                        r'title="([\d.]+)">', model_page)
    assert len(shades) > 300
    assert all(float(shade) == pytest.approx(float(nll) / 12 * 0.8, abs=0.011)
               for shade, nll in shades)
    assert len("".join(found.texts["passage"])) == len(shades)
    attention = json.loads(found.texts["data"][0])["attention"]
    assert np.array(attention).shape == (7, 7)
    assert re.search(r">Layer 1, head 0</text>", model_page)
    assert re.search(r">·</text>", model_page)


@pytest.mark.parametrize(("layer", "head", "wrong"), [(2, 0, "layer=2"), (0, -1, "head=-1")])
def test_a_head_that_is_not_there_is_refused(tmp_path, layer, head, wrong):
    tokens = write_tokens(tmp_path / "tokens")
    save_model(tmp_path / "models/gpt", random_model(29), model_config(), tokens / "tokenizer")
    with pytest.raises(ValueError, match=f"--{wrong} must be 0 to 1"):
        model_panels(tmp_path, "cpu", "abc", layer, head)


def test_without_a_model_only_a_prompt_is_an_error(tmp_path):
    assert model_panels(tmp_path, "cpu", None, None, 0) == {}
    with pytest.raises(ValueError, match=r"models/gpt.*dvc repro"):
        model_panels(tmp_path, "cpu", "abc", None, 0)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_browser_shows_it(tmp_path, model_page):
    from matplotlib.image import imread

    (tmp_path / "report.html").write_text(model_page)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
               f"--user-data-dir={tmp_path}/profile", "--window-size=1280,2400"]
    for ask in (f"--screenshot={tmp_path}/page.png", "--dump-dom"):
        done = subprocess.run([*command, ask, f"file://{tmp_path}/report.html"], check=True,
                              capture_output=True, text=True, timeout=120)
    shown, written = Reader(done.stdout), Reader(model_page)  # the browser's own tree
    for name in ("params", "stages", "passage"):
        assert shown.cells(name) == written.cells(name)
    assert json.loads(shown.texts["data"][0]) == json.loads(written.texts["data"][0])
    assert shown.tags.count("svg") == written.tags.count("svg")
    picture = imread(tmp_path / "page.png")[..., :3]
    assert picture.shape[1] == 1280
    blue = np.abs(picture - np.array([0x1f, 0x5f, 0xa8]) / 255).max(-1) < 0.02  # a curve's
    assert blue.sum() > 1000
    assert (picture[:, :20] == 1).all()  # nothing sticks out on the left, nor on the right
    assert (picture[:, -20:] == 1).all()
