"""Data sets of the Hub, from a server on this machine that fails in every way it can."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reprogpt.storage.http import TransferError
from tests.conftest import ROOT
from tests.hub_server import COMMIT, HubServer

REPO = "HuggingFaceFW/fineweb-edu"
README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
---
# FineWeb-Edu
"""
TEXTS = [f"Document {n}: photosynthesis — {'light and water. ' * (n % 50)}" for n in range(900)]


def parquet(texts: list[str]) -> bytes:
    """A file in FineWeb-Edu's own schema."""
    n = len(texts)
    table = pa.table({
        "text": texts, "id": [f"<urn:uuid:{i}>" for i in range(n)],
        "dump": ["CC-MAIN-2024-10"] * n, "url": ["https://example.org/"] * n,
        "file_path": ["s3://commoncrawl/x.warc.gz"] * n, "language": ["en"] * n,
        "language_score": [0.99] * n, "token_count": [len(t) // 4 for t in texts],
        "score": [3.1] * n, "int_score": [3] * n,
    })
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=100, compression="none", use_dictionary=False)
    return out.getvalue()


FIRST = "sample/10BT/000_00000.parquet"


@pytest.fixture(scope="module")
def server():
    files = {"README.md": README.encode(), ".gitattributes": b""}
    files["data/CC-MAIN-2024-10/000_00000.parquet"] = parquet(["not of the sample"])
    for n in range(3):
        files[f"sample/10BT/00{n}_00000.parquet"] = parquet(TEXTS[300 * n:300 * (n + 1)])
    server = HubServer(REPO, files)
    yield server
    server.close()


def start_child(server: HubServer, home: Path) -> subprocess.Popen:
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(home),
                   "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_DISABLE_XET": "1",
                   "HF_HUB_DISABLE_TELEMETRY": "1",
                   "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.Popen([sys.executable, "-m", "tests.hub_child"], env=environment, cwd=ROOT,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True)


@pytest.fixture(scope="module")
def child(server, tmp_path_factory):
    process = start_child(server, tmp_path_factory.mktemp("hf"))
    yield process
    process.stdin.close()
    process.wait(20)


@pytest.fixture
def hub(server, child):
    """The server, with nothing remembered of other tests."""
    server.faults.clear()
    server.gets.clear()
    server.sent.clear()
    server.child = child
    return server


def ask(process: subprocess.Popen, folder: Path, **values) -> None:
    hub = {"id": REPO, "config": "sample-10BT", "split": "train", "text_field": "text",
           "revision": COMMIT, **values.pop("of", {})}
    config = {"corpus": "hub", "files": None, "hub": hub, "max_bytes": None,
              "max_documents": None, **values}
    job = {"out": str(folder / "raw"), "cache": str(folder / "cache"), "config": config}
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()


def download(hub: HubServer, folder: Path, **values) -> dict:
    ask(hub.child, folder, **values)
    return json.loads(hub.child.stdout.readline())


def test_the_whole_of_a_configuration_in_order(hub, tmp_path):
    got = download(hub, tmp_path)
    assert got["texts"] == TEXTS
    assert COMMIT in got["revision"]
    fetched = list(hub.gets)
    assert download(hub, tmp_path)["texts"] == TEXTS
    again = [g for g in hub.gets[len(fetched):] if g[0].endswith(".parquet")]
    assert again == []  # not one file twice
    assert list((tmp_path / "cache/hub").rglob("*.parquet")) == []  # their text is in the cache


def test_a_first_part_is_read_in_ranges_and_grows(hub, tmp_path):
    got = download(hub, tmp_path, max_documents=120)
    assert got["texts"] == TEXTS[:120]
    assert all(ranged for name, ranged in hub.gets if name.endswith(".parquet"))
    assert hub.sent["sample/10BT/001_00000.parquet"] == 0
    limit = sum(len(t.encode()) for t in TEXTS[:350])
    assert download(hub, tmp_path, max_bytes=limit)["texts"] == TEXTS[:350]
    before = hub.sent[FIRST]
    assert download(hub, tmp_path, max_bytes=limit + 40_000)["texts"][:350] == TEXTS[:350]
    assert hub.sent[FIRST] == before  # its part was finished


def test_what_came_in_ranges_is_never_taken_for_the_checked_whole(hub, tmp_path):
    good = hub.files[FIRST]
    hub.files[FIRST] = good.replace(b"Document 7:", b"Document 8:")
    hub.checksums = {FIRST: hashlib.sha256(good).hexdigest()}  # what the Hub says of it
    try:
        wrong = download(hub, tmp_path, max_bytes=10**6)["texts"]
        assert wrong[7].startswith("Document 8:")  # ranges cannot be checked
    finally:
        hub.files[FIRST], hub.checksums = good, {}
    assert download(hub, tmp_path)["texts"] == TEXTS


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("faults", [["500"], ["429", "500"], ["truncate"], ["stall"]])
def test_passing_faults_are_overcome(hub, tmp_path, faults, partial):
    hub.faults[FIRST] = list(faults)
    values = {"max_documents": 250} if partial else {}
    got = download(hub, tmp_path, **values)
    assert "error" not in got
    assert got["texts"] == (TEXTS[:250] if partial else TEXTS)
    assert hub.faults[FIRST] == []
    if not partial and faults[0] in ("truncate", "stall"):
        resumed = [r for name, r in hub.gets if name == FIRST and r not in ("", "bytes=0-")]
        assert resumed  # continued, not begun anew


def test_other_bytes_midway_are_never_kept(hub, tmp_path):
    hub.faults[FIRST] = ["change"]
    assert download(hub, tmp_path)["texts"] == TEXTS
    hub.faults[FIRST] = ["change"] * 9
    other = tmp_path / "other"
    assert "are not those of commit" in download(hub, other)["error"]
    assert not (other / "raw/meta.json").exists()


def test_no_way_to_the_hub_is_told_at_once(monkeypatch):
    import huggingface_hub.constants

    from reprogpt.data.hub_dataset import _check_reachable

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TransferError, match=r"the Hub \(http://127.0.0.1:9\) cannot be reached"):
        _check_reachable()


def test_a_server_that_stays_broken_is_a_clear_error(hub, tmp_path):
    hub.faults[FIRST] = ["500"] * 200
    message = download(hub, tmp_path, max_documents=10)["error"]
    assert message.startswith("TransferError")
    assert "gave up after 5 attempts: HTTP 500" in message


@pytest.mark.parametrize(("values", "message"), [
    ({"of": {"id": "no/such"}}, "no/such"),
    ({"of": {"config": "sample-11BT"}}, "sample-11BT"),
    ({"of": {"split": "test"}}, "split='test' must be one of train"),
    ({"of": {"text_field": "body"}}, "has no field 'body' (there are: text, id,"),
])
def test_what_is_not_there_is_named(hub, tmp_path, values, message):
    assert message in download(hub, tmp_path, max_documents=5, **values)["error"]


@pytest.mark.slow
def test_a_killed_download_fetches_no_finished_part_again(hub, tmp_path):
    hub.faults["sample/10BT/002_00000.parquet"] = ["stall"] * 50
    child = start_child(hub, tmp_path / "hf")
    ask(child, tmp_path)
    deadline = time.time() + 60
    while hub.sent["sample/10BT/002_00000.parquet"] == 0 and time.time() < deadline:
        time.sleep(0.05)
    child.kill()
    child.wait()
    hub.faults.clear()
    done = {name: size for name, size in hub.sent.items() if "002" not in name}
    assert download(hub, tmp_path)["texts"] == TEXTS
    assert {name: hub.sent[name] for name in done if name.endswith("parquet")} == {
        name: size for name, size in done.items() if name.endswith("parquet")}


def test_a_model_comes_without_its_pickles(hub, tmp_path):
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "vocab.json"]
    added = {name: name.encode() * 100 for name in names}
    hub.files.update(added)
    try:
        for model in (REPO, f"{REPO}@{COMMIT}", "no/such"):
            job = {"out": str(tmp_path / "init"), "cache": str(tmp_path), "model": model}
            hub.child.stdin.write(json.dumps(job) + "\n")
            hub.child.stdin.flush()
            got = json.loads(hub.child.stdout.readline())
            if model == "no/such":
                assert "the Hub says" in got["error"]
            else:
                assert got["files"] == ["SHA256SUMS", "config.json", "init_from.txt",
                                        "model.safetensors", "vocab.json"]
    finally:
        for name in added:
            del hub.files[name]
    assert "pytorch_model.bin" not in {name for name, _ in hub.gets}
