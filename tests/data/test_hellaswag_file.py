"""HellaSwag's file, rebuilt from rows as the Arrow file has them."""

import json

import pyarrow as pa
import pytest

from reprogpt.data.hellaswag_file import HELLASWAG, check_hellaswag, rebuild

ROW = {"ind": 4, "activity_label": "Removing ice", "ctx_a": "A man", "ctx_b": "then", "ctx":
       "A man then", "split": "val", "split_type": "indomain", "label": "3", "endings": ["é", "b"],
       "source_id": "activitynet~v_1"}


def test_rows_are_written_as_the_authors_wrote_them(tmp_path):
    rows = [ROW, {**ROW, "source_id": "wikihow~1", "label": "0"}]
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as out:
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    rebuild(tmp_path / "x.arrow", tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {**row, "label": label} for row, label in zip(rows, (3, 0), strict=True)]
    assert lines[0].startswith('{"ind": 4, "activity_label": "Removing ice", "ctx_a": "A man", ')
    assert lines[1].startswith('{"ind": 4, "ctx": "A man then", "activity_label": ')
    assert '"endings": ["\\u00e9", "b"]' in lines[0]


def test_it_is_pinned_to_its_published_bytes():
    assert HELLASWAG.sha256 == "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588"


def test_a_file_that_is_cut_short_is_not_scored(tmp_path):
    file = tmp_path / "hellaswag_val.jsonl"
    with pytest.raises(ValueError, match="does not exist; run the stage download"):
        check_hellaswag(file)
    file.write_text(json.dumps(ROW) + "\n")
    with pytest.raises(ValueError, match=r"hellaswag_val.jsonl: is damaged.*the stage download"):
        check_hellaswag(file)
