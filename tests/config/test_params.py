"""Config: rules between sections, loading, and what a fingerprint covers."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reprogpt.config import Config
from reprogpt.errors import ConfigError
from tests.config.edited import BASE, edited
from tests.conftest import ROOT


def test_batch_tokens_must_be_a_multiple_of_block_size() -> None:
    values = edited("train.batch_tokens", 1000)
    values["model"]["block_size"] = 64
    with pytest.raises(ConfigError) as error:
        Config.parse(values, source="params.yaml")
    assert str(error.value) == ("params.yaml: train.batch_tokens=1000 must be a multiple of "
                                "model.block_size = 64; try 1024")


def test_a_config_cannot_be_changed() -> None:
    config = Config.parse(BASE)
    with pytest.raises(ValidationError):
        config.train.lr = 1.0  # type: ignore[misc]


def test_six_e_minus_four_is_a_number(tmp_path: Path) -> None:
    text = (ROOT / "presets/shakespeare.yaml").read_text()
    lines = [line if not line.startswith("  lr:") else "  lr: 6e-4" for line in text.splitlines()]
    lines = [line if not line.startswith("  min_lr:") else "  min_lr: 6e-5" for line in lines]
    (tmp_path / "params.yaml").write_text("\n".join(lines) + "\n")
    assert Config.load(tmp_path / "params.yaml").train.lr == 6e-4


class TestFingerprint:
    CONTENTS = (("manifest", "aa"), ("src/model.py", "bb"))

    def of(self, key: str = "seed", value: Any = 1337) -> str:
        return Config.parse(edited(key, value)).fingerprint(self.CONTENTS)

    @pytest.mark.parametrize(("key", "value"), [
        ("train.lr", 0.0005), ("model.n_layer", 3), ("seed", 1), ("train.max_steps", 7_000)])
    def test_covers_what_decides_the_weights(self, key: str, value: Any) -> None:
        assert self.of(key, value) != self.of()

    @pytest.mark.parametrize(("key", "value"), [
        ("runtime.nproc", 4), ("runtime.micro_batch", 2), ("sample.temperature", 0.1),
        ("evaluate.hellaswag_examples", 3), ("download.max_bytes", 9)])
    def test_covers_nothing_else(self, key: str, value: Any) -> None:
        assert self.of(key, value) == self.of()

    def test_a_switch_that_is_off_is_left_out(self) -> None:
        assert self.of("train.max_loss_spike", None) == self.of()
        assert self.of("train.max_loss_spike", 3.0) != self.of()

    def test_covers_the_contents_in_any_order(self) -> None:
        config = Config.parse(BASE)
        assert config.fingerprint(self.CONTENTS) == config.fingerprint(reversed(self.CONTENTS))
        assert config.fingerprint(self.CONTENTS) != config.fingerprint(self.CONTENTS[:1])

    def test_is_sixteen_hex_digits(self) -> None:
        assert len(self.of()) == 16
        int(self.of(), 16)


def test_no_section_has_a_default() -> None:
    """params.yaml spells out every section."""
    for name, field in Config.model_fields.items():
        assert field.is_required(), name
