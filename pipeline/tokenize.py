"""Stage tokenize: data/raw -> data/tokens (uint16 shards, manifest.json, the tokenizer)."""

from pipeline import ROOT, stage


def main() -> None:
    with stage("tokenize") as cfg:
        from reprogpt.encoding.tokenize_corpus import tokenize

        manifest = tokenize(cfg.tokenize, ROOT / "data/raw", ROOT / "data/tokens",
                            cfg.runtime)
        for split, total in manifest.totals.items():
            print(f"{split}: {total.documents:,} documents, {total.tokens:,} tokens, "
                  f"{total.bytes / total.tokens:.2f} bytes a token")


if __name__ == "__main__":
    main()
