"""Tokenizing speed and memory: build-nanogpt's scheme against the stage tokenize, in turn.

    python -m benchmarks.tokenizing BOOKS.parquet [--workers 2] [--rounds 3] [--times 1]
    python -m benchmarks.tokenizing BOOKS.parquet --shape one --times 10     a document of 1 GB
    python -m benchmarks.tokenizing BOOKS.parquet --shape short              a million short ones

The reference is the scheme of build-nanogpt's fineweb.py: the main process reads the rows of the
data set and hands them to `Pool.imap(tokenize, rows, chunksize=16)`; each worker makes a Python
list of ids, a numpy array of that, and pickles it back; the main process fills shards of 1e8.
Ours reads raw parts that the stage download wrote before (not timed on its side; the time it took
is printed), and gives no tokens of one that differ from tiktoken's. CPU seconds are those of the
main process and all its children, start and imports included. Memory is the peak of the main
process and of its largest child; ours starts children above tokenize_corpus.SMALL only.
"""

import argparse
import itertools
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
sys.path[0] = str(ROOT)
sys.path.insert(0, str(SRC))

SHARD_TOKENS = 100_000_000


def rows(path: Path, times: int, shape: str) -> Iterator[dict]:
    """The documents: the file's, all of them joined as one (with a short one beside it, so that
    there are two to split), or the first million of 50 characters each."""
    import pyarrow.parquet as pq

    texts = (row["text"] for _ in range(times)
             for batch in pq.ParquetFile(path).iter_batches(64, columns=["text"])
             for row in batch.to_pylist())
    if shape == "one":
        yield from ({"text": "".join(texts)}, {"text": "held out"})
    elif shape == "short":
        short = (text[n:n + 50] for text in texts for n in range(0, len(text) - 50, 50))
        yield from ({"text": text} for text in itertools.islice(short, 1_000_000))
    else:
        yield from ({"text": text} for text in texts)


encoding: Any = None
"""Of a worker process: what it encodes with."""


def start_worker() -> None:
    from reprogpt.tokens.tokenizers import gpt2_tokenizer

    global encoding
    encoding = gpt2_tokenizer().encoding


def reference_document(row: dict) -> np.ndarray:
    ids = [50256]
    ids.extend(encoding.encode_ordinary(row["text"]))
    array = np.array(ids)
    assert (array >= 0).all()
    assert (array < 2**16).all()
    return array.astype(np.uint16)


def reference(path: Path, times: int, shape: str, workers: int, out: Path) -> int:
    total = filled = 0
    shard = np.empty(SHARD_TOKENS, np.uint16)
    context = multiprocessing.get_context("fork")  # what Pool used where that script was written
    with context.Pool(workers, start_worker) as pool:
        for ids in pool.imap(reference_document, rows(path, times, shape), chunksize=16):
            total += len(ids)
            while len(ids):
                take = min(len(ids), SHARD_TOKENS - filled)
                shard[filled:filled + take] = ids[:take]
                ids, filled = ids[take:], filled + take
                if filled == SHARD_TOKENS:
                    np.save(out / f"shard_{total}.npy", shard)
                    filled = 0
    np.save(out / "shard_last.npy", shard[:filled])
    return total


def ours(raw: Path, workers: int, out: Path, encoder: Any) -> int:
    from reprogpt.config import RuntimeConfig, TokenizeConfig
    from reprogpt.encoding.tokenize_corpus import tokenize

    runtime = RuntimeConfig(device="cpu", nproc=1, micro_batch=1, compile=False, workers=workers,
                            checkpoint_interval=1, launcher="torchrun", resume=None,
                            encoder=encoder)
    cfg = TokenizeConfig(encoding="gpt2", shard_tokens=SHARD_TOKENS, split="hash",
                         val_fraction=0.01)
    manifest = tokenize(cfg, raw, out, runtime)
    return sum(total.tokens for total in manifest.totals.values())


def make_raw(path: Path, times: int, shape: str, raw: Path) -> None:
    from reprogpt.data.collect import Source, collect
    from reprogpt.data.raw_text import Document, Meta, write_meta

    source = Source("benchmark", "",
                    lambda first: (Document(r["text"]) for r in rows(path, times, shape)))
    write_meta(raw, Meta("benchmark", "0", tuple(collect([source], raw))))


def child(arguments: list[str]) -> None:
    """One side, once, in a process of its own: prints tokens, seconds, CPU seconds, MB."""
    side, path, times, shape, workers, raw, out = arguments
    start = time.perf_counter()
    if side == "build-nanogpt":
        tokens = reference(Path(path), int(times), shape, int(workers), Path(out))
    else:
        tokens = ours(Path(raw), int(workers), Path(out), side.split()[-1])
    seconds = time.perf_counter() - start
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF,
                                                      resource.RUSAGE_CHILDREN))
    cpu = own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
    print("RESULT", tokens, seconds, cpu, peak_mb(), others.ru_maxrss / 1024)


def peak_mb() -> float:
    """This process's peak. (ru_maxrss of a child begins with what its parent had.)"""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(side: str, options: argparse.Namespace, raw: Path) -> list[float]:
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        cache.mkdir()
        from reprogpt.storage.paths import cache_dir

        (cache / "files").symlink_to(cache_dir() / "files")
        out = Path(name) / "out"
        out.mkdir()
        done = subprocess.run(
            [sys.executable, __file__, "--child", side, str(options.parquet), str(options.times),
             options.shape, str(options.workers), str(raw), str(out)],
            env={**os.environ, "REPROGPT_CACHE": str(cache), "PYTHONPATH": str(SRC)},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return [float(word) for word in line.split()[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parquet", type=Path, help="a parquet file with a column `text`")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=1, help="read the file so many times over")
    parser.add_argument("--shape", choices=["books", "one", "short"], default="books")
    parser.add_argument("--sides", nargs="*", default=["build-nanogpt", "ours, tiktoken",
                                                       "ours, auto"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from benchmarks.machine import heading, write  # torch, which would count as ours
    from reprogpt.tokens.tokenizers import gpt2_tokenizer

    gpt2_tokenizer()  # fetched before anything is timed
    print(heading(), f"{options.workers} workers, medians of {options.rounds} rounds in turn",
          sep="\n")
    raw = Path(tempfile.mkdtemp(prefix="reprogpt-raw-"))
    try:
        start, cpu = time.perf_counter(), time.process_time()
        make_raw(options.parquet, options.times, options.shape, raw)
        print(f"stage download's side: {time.perf_counter() - start:.1f} s, "
              f"{time.process_time() - cpu:.1f} CPU s")
        results: dict[str, list[list[float]]] = {side: [] for side in options.sides}
        for _ in range(options.rounds):  # in turn, so that a busy machine is busy for all
            for side in options.sides:
                results[side].append(measure(side, options, raw))
    finally:
        shutil.rmtree(raw)
    write(options.json, table(results, options.sides[0]))


def table(results: dict[str, list[list[float]]], base: str) -> list[dict[str, Any]]:
    """Prints the medians over the rounds, and returns them."""
    medians = {side: np.median(runs, axis=0) for side, runs in results.items()}
    reference = medians[base][0] / medians[base][2]
    print(f"{'':18} {'tokens':>12} {'seconds':>8} {'CPU s':>7} {'tokens/CPU s':>13} {'ratio':>6} "
          f"{'main MB':>8} {'worker MB':>10}")
    rows = []
    for side, (tokens, seconds, cpu, own, others) in medians.items():
        rows.append({"side": side, "tokens": tokens, "seconds": seconds, "cpu_seconds": cpu,
                     "ratio": tokens / cpu / reference, "main_mb": own, "worker_mb": others})
        print(f"{side:18} {tokens:12,.0f} {seconds:8.1f} {cpu:7.1f} {tokens / cpu:13,.0f} "
              f"{tokens / cpu / reference:6.2f} {own:8.0f} {others:10.0f}")
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
