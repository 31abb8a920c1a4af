"""Shards that the tests of training read; one that damages shards writes its own."""

from pathlib import Path

import pytest

from tests.tiny_runs import write_tokens


@pytest.fixture(scope="package")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens"))
