"""Models to start from: local directories and ids of the Hub, never pickles."""

import pytest

from reprogpt.errors import ConfigError
from reprogpt.formats.hub_model import SOURCE, fetch_model


def test_initial_weights_are_a_marker_or_a_model_without_pickles(tmp_path):
    fetch_model(None, tmp_path / "init")
    assert [p.name for p in (tmp_path / "init").iterdir()] == [SOURCE]
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "pytorch_model.bin", "notes.txt"):
        (model / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"must hold config.json and \*.safetensors"):
        fetch_model(str(model), tmp_path / "init")
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "._model.safetensors").write_bytes(b"macOS's")
    fetch_model(str(model), tmp_path / "init")
    assert sorted(p.name for p in (tmp_path / "init").iterdir()) == [
        "SHA256SUMS", "config.json", SOURCE, "model.safetensors"]
    assert (tmp_path / "init" / SOURCE).read_text() == f"{model}\n"


def test_a_misspelt_model_directory_is_no_hub_id(tmp_path, monkeypatch):
    """Nothing here asks the network."""
    copy = tmp_path / ".dvc/tmp/exps/tmp1"
    (copy / "models").mkdir(parents=True)
    (tmp_path / "models/books").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "models/books" / name).write_text("{}")
    monkeypatch.chdir(copy)
    fetch_model("models/books", copy / "init")  # the main checkout's: git does not track it
    assert (copy / "init/model.safetensors").is_file()
    (copy / "weights.pt").write_text("")
    for wrong in ("models/nope", "./nope", "/no/such", "~/nope", "a/b/c", "weights.pt"):
        with pytest.raises(ConfigError, match="no such directory; correct the path") as caught:
            fetch_model(wrong, copy / "init")
        assert f"model.init_from={wrong!r}" in str(caught.value)
