"""Stage download: the corpus, HellaSwag, initial weights -> data/raw, data/hellaswag, data/init."""

from pipeline import ROOT, stage
from pipeline.checks.preflight import check_model


def main() -> None:
    with stage("download") as cfg:
        from reprogpt.data.corpora import download
        from reprogpt.data.hellaswag_file import fetch_hellaswag
        from reprogpt.formats.hub_model import fetch_model
        from reprogpt.storage.files import write_json

        # First what is small, and most often misspelt.
        fetch_model(cfg.model.init_from, ROOT / "data/init")
        if (weights := cfg.download.weights()) is not None:
            write_json(ROOT / "data/init/mix.json", weights)
        check_model(cfg)
        meta = download(cfg.download, ROOT / "data/raw")
        fetch_hellaswag(ROOT / "data/hellaswag")
        print(f"{meta.corpus}: {meta.documents:,} documents, {meta.bytes:,} bytes of text")


if __name__ == "__main__":
    main()
