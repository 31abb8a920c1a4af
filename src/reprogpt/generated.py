"""Corpora that are made rather than found: problems of which only the answer is trained.

A problem is a line, and a document: ``123+456=579``. What stands before the answer is given, so it
is masked out of the loss; the answer ends with the line break. All documents of a corpus have the
same length (what is left over is line breaks, masked too), so with model.block_size that long and
train.order sequential every row of a batch is one whole problem.
"""

import json
from collections.abc import Iterator

from reprogpt.config import DownloadConfig, TaskConfig
from reprogpt.corpora import Corpus, Open, whole
from reprogpt.corpus.raw import Document
from reprogpt.tasks import END, VERSION, held_out, longest, problems


def documents(task: str, cfg: TaskConfig) -> Iterator[Document]:
    """The problems as text of one length, the answers as what counts."""
    width = longest(task, cfg)
    for problem in problems(task, cfg):
        text = problem.prompt + problem.answer + END
        assert len(text) <= width, text
        counted = ((len(problem.prompt), len(text)),)
        split = "val" if held_out(problem, cfg) else "train"
        yield Document(text.ljust(width, END), counted, split)


def _open(task: str) -> Open:
    def corpus(cfg: DownloadConfig) -> Corpus:
        own = cfg.task or TaskConfig()
        params = json.dumps(own.model_dump(), sort_keys=True)
        source = whole(task, f"{task} {VERSION} {params}", lambda: documents(task, own))
        return Corpus(f"{task} {VERSION} {params}", [source])

    return corpus


TASKS: dict[str, Open] = {task: _open(task) for task in ("addition", "calculator")}
"""For corpora.download: the corpora that this file makes."""
