"""Stage sample: text written by models/gpt -> metrics/samples.md.

    python -m pipeline.sample
"""

from pipeline import ROOT, stage


def main() -> None:
    with stage("sample") as cfg:
        from reprogpt.formats.huggingface import load_model
        from reprogpt.generation.samples import page, write
        from reprogpt.model.kernels.packed_linear import packed
        from reprogpt.runtime.device import pick_device
        from reprogpt.storage.files import write_bytes
        from reprogpt.tokens.tokenizers import load_tokenizer

        model, _ = load_model(ROOT / "models/gpt", pick_device(cfg.runtime.device))
        tokenizer = load_tokenizer(ROOT / "models/gpt")
        samples = write(packed(model), tokenizer, cfg.sample, cfg.seed)
        text = page(f"Samples: {cfg.preset}", cfg.sample, cfg.seed, samples)
        write_bytes(ROOT / "metrics/samples.md", text.encode())


if __name__ == "__main__":
    main()
