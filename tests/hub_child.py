"""A process that runs `corpora.download`: HF_ENDPOINT is read when the libraries are imported.

Reads one JSON object a line (out, cache, and a DownloadConfig), and writes one a line. One process
serves many tests, because importing `datasets` takes seconds.
"""

import json
import os
import sys
from pathlib import Path


def answer(job: dict) -> dict:
    import huggingface_hub.constants

    import reprogpt.storage.http
    from reprogpt.config import DownloadConfig
    from reprogpt.data.corpora import download
    from reprogpt.formats.hub_model import fetch_model
    from reprogpt.storage.http import TransferError
    from tests.conftest import read_documents

    reprogpt.storage.http.PAUSE = 0.05
    huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 4096  # so that small files break in the middle
    os.environ["REPROGPT_CACHE"] = job["cache"]
    out = Path(job["out"])
    try:
        if "model" in job:
            fetch_model(job["model"], out)
            return {"files": sorted(path.name for path in out.iterdir())}
        meta = download(DownloadConfig(**job["config"]), out)
    except (ValueError, TransferError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"revision": meta.revision, "texts": [d.text for d in read_documents(out, meta)]}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
