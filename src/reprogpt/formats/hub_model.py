"""The model to start from, copied from a directory or the Hugging Face Hub, without pickles."""

import os
import re
import shutil
from pathlib import Path

from reprogpt.errors import ConfigError
from reprogpt.storage.files import (
    check_sums,
    hub_checksum,
    make_empty,
    replacing,
    write_bytes,
    write_sums,
)
from reprogpt.storage.paths import local_path

SOURCE = "init_from.txt"
"""What model.init_from said when data/init was filled; the stage train compares it."""
HUB_ID = r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?(@[A-Za-z0-9_./-]+)?"
"""`gpt2` or `owner/name`, also with `@revision`"""
# Never *.bin or *.pt: those are pickles, which run code when opened.
MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors",
               "model.safetensors.index.json", "vocab.json", "merges.txt", "tokenizer.json",
               "tokenizer_config.json", "special_tokens_map.json", "char_vocab.json")


def fetch_model(init_from: str | None, out_dir: Path) -> None:
    """Fills ``out_dir`` with the model to start from, if there is one, and with SOURCE.

    ``init_from`` is a model directory on this machine, or a Hub id (`gpt2`, `owner/name`,
    `owner/name@revision`). Raises ConfigError, also for a misspelt path.
    """
    make_empty(out_dir)
    if init_from is not None:
        source = local_model(init_from) or _from_hub(init_from)
        files = model_files(source, init_from)
        check_sums(source, MODEL_FILES, "make or fetch the model again")
        for name, file in files.items():
            with replacing(out_dir / name) as temporary:
                shutil.copyfile(file, temporary)
        write_sums(out_dir)
    write_bytes(out_dir / SOURCE, f"{init_from or 'null'}\n".encode())


def model_files(source: Path, init_from: str) -> dict[str, Path]:
    """Name -> path of a model directory's files. Raises ConfigError without config or weights."""
    files = {file.name: file for pattern in MODEL_FILES for file in source.glob(pattern)
             if not file.name.startswith(".")}  # ._model.safetensors, as macOS makes them
    if "config.json" not in files or not any(n.endswith(".safetensors") for n in files):
        raise ConfigError(f"params.yaml: model.init_from={init_from!r} must hold config.json and "
                          f"*.safetensors (pickles are not opened), and {source} does not; name "
                          "another model")
    return files


def local_model(name: str) -> Path | None:
    """The model directory of this name; None for a Hub id. Raises ConfigError for neither."""
    path = local_path(name)
    if os.path.isdir(path):  # noqa: PTH112 (False, not an error, for an impossible path)
        return path
    parts = name.split("/")
    # owner/name is a Hub id, unless a folder `owner` is here: then it is a misspelt path.
    beside = len(parts) == 2 and local_path(parts[0]).is_dir()
    is_id = len(name) <= 200 and re.fullmatch(HUB_ID, name) and not name.startswith(".")
    if not is_id or beside or os.path.isfile(path):  # noqa: PTH113 (as above)
        raise ConfigError(f"params.yaml: model.init_from={name!r} must be a model directory or a "
                          "Hub id, and there is no such directory; correct the path")
    return None


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        snapshot = Path(snapshot_download(repo, revision=revision or None,
                                          allow_patterns=list(MODEL_FILES)))
    except LocalEntryNotFoundError:  # raised for a connection that fails
        raise ConfigError(f"params.yaml: model.init_from={name!r} must be a model directory or a "
                          "model on the Hub, which cannot be reached, and there is no copy of it "
                          "here; check the network, or name a model directory") from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"params.yaml: model.init_from={name!r} must be a model directory or a "
                          f"model on the Hub; the Hub says: {reason}") from None
    for file in filter(Path.is_symlink, snapshot.iterdir()):
        _check_blob(file)
    return snapshot


def _check_blob(file: Path) -> None:
    """Compares a file of the Hub's cache with the Hub's checksum, which huggingface_hub does not:
    it is the name of the blob that the file links to. Raises ValueError, and removes a bad blob."""
    blob = file.resolve()
    known = len(blob.name) in (40, 64)  # else it is a mirror's own name for it
    if known and hub_checksum(blob, blob.name) != blob.name:
        blob.unlink()
        raise ValueError(f"{blob}: was damaged in the Hub's cache, and has been removed; run the "
                         "stage download again, which fetches it anew")
