"""Stage download: the corpus, HellaSwag, initial weights -> data/raw, data/hellaswag, data/init."""

from pipeline import ROOT, stage
from pipeline.machine import check_links


def main() -> None:
    with stage("download") as cfg:
        from reprogpt.corpora import download
        from reprogpt.corpus.hellaswag_source import fetch_hellaswag
        from reprogpt.corpus.hub import fetch_model
        from reprogpt.generated import TASKS

        check_links()
        # First what is small, and most often misspelt.
        fetch_model(cfg.model.init_from, ROOT / "data/init")
        meta = download(cfg.download, ROOT / "data/raw", TASKS)
        fetch_hellaswag(ROOT / "data/hellaswag")
        print(f"{meta.corpus}: {meta.documents:,} documents, {meta.bytes:,} bytes of text")


if __name__ == "__main__":
    main()
