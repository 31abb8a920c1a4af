"""Shards in llm.c's and build-nanogpt's formats, and the errors for files in others."""

import numpy as np
import pytest

from reprogpt.errors import ConfigError
from reprogpt.tokens.shard_format import header, open_tokens

IDS = np.array([0, 1, 50256, 65535], np.uint16)


def test_the_header_is_llmcs():
    words = np.frombuffer(header(123), "<i4")  # dev/data/data_common.py: header[0], [1], [2]
    assert len(words) == 256
    assert words[:3].tolist() == [20240520, 1, 123]
    assert not words[3:].any()


def test_both_formats_are_opened(tmp_path):
    (tmp_path / "a.bin").write_bytes(header(4) + IDS.astype("<u2").tobytes())
    np.save(tmp_path / "a.npy", IDS)
    for name in ("a.bin", "a.npy"):
        tokens = open_tokens(tmp_path / name)
        assert np.array_equal(tokens, IDS)
        assert tokens.dtype == np.uint16


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.bin", b"", "does not begin with llm.c's header"),
    ("a.bin", b"x" * 2000, "does not begin with llm.c's header"),
    ("a.bin", header(4) + bytes(6), "has 1030 bytes, but the 4 tokens in its header take 1032"),
    ("a.npy", b"x" * 2000, "is not a complete .npy file"),
])
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        open_tokens(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("array", [IDS.astype(np.int32), IDS.reshape(2, 2)])
def test_an_array_of_another_type_or_shape_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ConfigError, match="must be a one-dimensional array of uint16"):
        open_tokens(tmp_path / "a.npy")
