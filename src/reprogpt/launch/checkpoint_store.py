"""Copies of a run's checkpoints outside this machine: `runtime.checkpoint_store`.

``STORE/<run>/step_000250.<sha256>.pt`` is the copy of runs/<run>/step_000250.pt; best_* likewise.
Nothing in a store is half: S3 shows an object when its upload is complete, and in a folder a file
is renamed when it is. The checksum is in the name, so that no file can be paired with another's.
"""

import re
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reprogpt.errors import ConfigError
from reprogpt.launch.run_dir import checkpoint_steps
from reprogpt.storage.files import replacing, sha256_of, write_bytes
from reprogpt.storage.paths import local_path

COPY = re.compile(r"(step|best)_(\d{6,})\.[0-9a-f]{64}\.pt")


class Store:
    """The part of a store that belongs to one run. Its methods raise what fsspec and boto raise."""

    def __init__(self, url: str, run: Path) -> None:
        """``url``: `s3://BUCKET/FOLDER`, or a folder, relative to the one that has runs/. Raises
        where a small file cannot be written and removed."""
        import fsspec

        self.in_bucket, self.run = url.startswith("s3://"), run
        if self.in_bucket:
            limits = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}
            self.fs: Any = fsspec.filesystem("s3", skip_instance_cache=True,
                                             use_listings_cache=False, config_kwargs=limits)
        else:
            self.fs, url = fsspec.filesystem("file"), str(local_path(url, run.parents[1]))
            if not Path(url).is_dir():
                raise FileNotFoundError("there is no such folder (is it mounted?)")
        url = url.rstrip("/")
        self.path, trial = f"{url}/{run.name}", f"{url}/check.{secrets.token_hex(4)}"
        self.fs.pipe_file(trial, b"reprogpt")
        self.fs.rm_file(trial)

    def names(self) -> list[str]:
        """The names of the run's copies, ascending by step."""
        found = self.fs.ls(self.path, detail=False) if self.fs.exists(self.path) else ()
        names = (path.rpartition("/")[2] for path in found)
        return sorted(filter(COPY.fullmatch, names), key=step_of)

    def put(self, source: Path, name: str) -> None:
        """Copies a file, which is visible under ``name`` once it is whole."""
        if self.in_bucket:
            self.fs.put_file(str(source), f"{self.path}/{name}")
        else:
            with replacing(Path(self.path, name)) as temporary:
                shutil.copyfile(source, temporary)

    def get(self, name: str) -> None:
        """Copies a checkpoint into the run's folder. Raises ValueError when it is damaged."""
        stem, digest, _ = name.split(".")
        path = self.run / f"{stem}.pt"
        with replacing(path) as temporary:
            self.fs.get_file(f"{self.path}/{name}", str(temporary))
            if sha256_of(temporary) != digest:
                raise ValueError(f"{name}: its sha256 is another")
            write_bytes(path.with_suffix(".sha256"), digest.encode())

    def fetch(self) -> None:
        """Copies the newest intact checkpoint into the run's folder, if that has none as new."""
        if not self.in_bucket:
            for left in Path(self.path).glob(".*"):  # temporary files of a copy that was killed
                left.unlink(missing_ok=True)
        if not (self.run / "run.json").exists() and self.fs.exists(f"{self.path}/run.json"):
            with replacing(self.run / "run.json") as temporary:  # what runtime.resume compares
                self.fs.get_file(f"{self.path}/run.json", str(temporary))
        here, names = max(checkpoint_steps(self.run), default=-1), self.names()
        newer = [name for name in names if name.startswith("step_") and step_of(name) > here]
        for name in reversed(newer):
            best = [b for b in names if b.startswith("best_") and step_of(b) <= step_of(name)]
            try:
                for wanted in (*best, name):  # the checkpoint last: it refers to the best one
                    self.get(wanted)
            except ValueError as error:
                print(f"{self.path}: {error}; using the checkpoint before it", file=sys.stderr)
                continue
            print(f"fetched the checkpoint of step {step_of(name)} from {self.path}",
                  file=sys.stderr)
            return


def step_of(name: str) -> int:
    """The step in the name of a checkpoint's copy."""
    return int(name[5:name.index(".")])


def fetch(url: str | None, run: Path) -> None:
    """Brings ``run``'s folder up to date with the store, where there is one. Raises ConfigError
    when the store cannot be written or read."""
    if url is not None:
        with _one_line(url):
            Store(url, run).fetch()


def check(url: str | None, runs: Path) -> None:
    """Raises ConfigError when the store of the runs in ``runs`` cannot be written."""
    if url is not None:
        with _one_line(url):
            Store(url, runs / "any")


@contextmanager
def _one_line(url: str) -> Iterator[None]:
    name = f"params.yaml: runtime.checkpoint_store={url}"
    try:
        yield
    except ImportError:
        raise ConfigError(f"{name} needs s3fs; pip install -c constraints.txt -e '.[s3]'") from None
    except Exception as error:  # boto's and aiohttp's are of many kinds
        raise ConfigError(f"{name} cannot be used: {_reason(error)}; correct that, or set it to "
                          "null") from None


class CheckpointCopies:
    """Copies checkpoints to the store on a thread, one after another. Trouble is one line, and the
    training goes on: the next checkpoint is tried again."""

    def __init__(self, url: str | None, run: Path, keep: int, patience: float) -> None:
        """``keep``: copies to keep. ``patience``: seconds that :meth:`start` may wait."""
        self.url, self.run, self.keep, self.patience = url, run, keep, patience
        self._copying = threading.Lock()

    def start(self, step: int, best: int | None = None) -> None:
        """Begins to copy the checkpoint of ``step`` and the weights of step ``best``, once the
        copy before is finished; leaves it out where that takes longer than ``patience``."""
        if self.url is None:
            return
        if self._copying.acquire(timeout=self.patience):
            threading.Thread(target=self._copy, args=(self.url, step, best), daemon=True).start()
        else:
            print(f"{self.url}: is too slow, the checkpoint of step {step} is not copied",
                  file=sys.stderr)

    def wait(self) -> None:
        """Returns when no copy is under way."""
        with self._copying:
            pass

    def _copy(self, url: str, step: int, best: int | None) -> None:
        try:
            store = Store(url, self.run)
            before = store.names()
            store.put(self.run / "run.json", "run.json")
            mine = []
            for stem in [*([] if best is None else [f"best_{best:06d}"]), f"step_{step:06d}"]:
                mine.append(f"{stem}.{(self.run / f'{stem}.sha256').read_text()}.pt")
                if mine[-1] not in before:
                    store.put(self.run / f"{stem}.pt", mine[-1])
            older = [name for name in before if name.startswith("step_") and step_of(name) < step]
            kept = {*mine, *older[max(0, len(older) + 1 - self.keep):]}
            for name in before:
                if name not in kept:
                    store.fs.rm_file(f"{store.path}/{name}")
        except Exception as error:
            print(f"{url}: the checkpoint of step {step} was not copied: {_reason(error)}; "
                  "training goes on, and copies the next one", file=sys.stderr)
        finally:
            self._copying.release()


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
