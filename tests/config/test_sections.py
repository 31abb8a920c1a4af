"""The other sections; the defaults of all."""

import json
import os
from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel

from reprogpt.config import CORPORA, Config
from reprogpt.storage.files import write_json
from tests.config.edited import edited
from tests.conftest import ROOT


def test_a_commit_is_taken_and_fineweb_edus_is_one() -> None:
    from reprogpt.data.corpora import FINEWEB_EDU

    given = Config.parse(edited("download.hub", FINEWEB_EDU.model_dump()))
    assert given.download.hub == FINEWEB_EDU


def test_every_corpus_can_be_opened() -> None:
    from reprogpt.data.corpora import CORPORA as OPENED

    assert {*OPENED, "shards"} == set(CORPORA)


def test_defaults_never_change() -> None:
    """A default is in no lock and in no fingerprint: a changed one would falsify old results. After
    adding a switch: UPDATE_GOLDEN=1 python -m pytest tests/config/test_sections.py"""
    golden = ROOT / "tests/golden/defaults.json"
    found = {f"{section}.{key}": repr(field.get_default(call_default_factory=True))
             for section, model in sections(Config) for key, field in model.model_fields.items()
             if not field.is_required()}
    if os.environ.get("UPDATE_GOLDEN"):
        write_json(golden, dict(sorted(found.items())))
    assert len(found) > 30
    assert found == json.loads(golden.read_text())


def sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section below ``model``, by its class's name."""
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield kind.__name__, kind
                yield from sections(kind)
