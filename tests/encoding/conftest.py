"""What the tests of this folder share."""

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own, with the fetched files of the machine's."""
    from reprogpt.storage.paths import cache_dir
    from reprogpt.tokens.tokenizers import ENCODER_JSON, VOCAB_BPE, fetch

    fetch(VOCAB_BPE)
    fetch(ENCODER_JSON)
    files = cache_dir() / "files"
    monkeypatch.setenv("REPROGPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "files").symlink_to(files)
