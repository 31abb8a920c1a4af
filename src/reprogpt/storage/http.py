"""One file over http(s): resumed where it broke, retried with back-off, shown with a bar."""

import http.client
import random
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from reprogpt.storage.files import CHUNK

CONNECT_SECONDS = 5.0  # a home that does not answer by then is down; a mirror is at hand
STALL_SECONDS = 30.0  # no byte for so long is a broken transfer, to be resumed
ATTEMPTS = 5
RETRIED = {408, 425, 429, 500, 502, 503, 504}


class TransferError(OSError):
    """The bytes did not come."""


def download_url(url: str, target: Path, attempts: int = ATTEMPTS, pause: float = 1.0) -> None:
    """Fills ``target`` from ``url``, continuing what is already in it.

    The entity tag is kept beside a partial file: when the file changed at the server, the transfer
    starts over instead of joining two versions. A server that cannot be reached at all is not
    retried. Raises TransferError.
    """
    for attempt in range(1, attempts + 1):
        try:
            _transfer(url, target)
            _tag_file(target).unlink(missing_ok=True)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the partial file is as long as the whole: start over
                target.unlink(missing_ok=True)
            elif error.code not in RETRIED:
                raise TransferError(f"HTTP {error.code} {error.reason}") from None
            failure, wait = f"HTTP {error.code} {error.reason}", retry_after(error)
        except urllib.error.URLError as error:
            raise TransferError(f"cannot be reached ({error.reason})") from None
        except (OSError, http.client.HTTPException) as error:
            failure, wait = f"{type(error).__name__}: {error}", 0.0
        if attempt < attempts:
            # Jitter keeps many processes from knocking again at the same moment.
            time.sleep(max(wait, pause * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)))
    raise TransferError(f"gave up after {attempts} attempts: {failure}")


def _transfer(url: str, target: Path) -> None:
    have = target.stat().st_size if target.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "reprogpt"})  # noqa: S310
    tag = _tag_file(target).read_text() if have and _tag_file(target).is_file() else ""
    if have and tag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag)
    with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer:  # noqa: S310
        _allow_stalls(answer)
        resumed = answer.status == 206
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        etag = answer.headers.get("ETag", "")
        # If-Range wants a strong tag; with none, a broken transfer starts over.
        if etag and not etag.startswith("W/"):
            _tag_file(target).write_text(etag)
        bar = tqdm(desc=target.name, total=total, initial=start, unit="B", unit_scale=True,
                   delay=1)
        with target.open("ab" if resumed else "wb") as out, bar:
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    if total is not None and target.stat().st_size != total:
        raise http.client.IncompleteRead(b"", total - target.stat().st_size)


def _allow_stalls(answer: http.client.HTTPResponse) -> None:
    """After the headers came, a pause may be longer than the time to connect."""
    raw = getattr(answer.fp, "raw", None)
    connection = getattr(raw, "_sock", None)
    if connection is not None:
        connection.settimeout(STALL_SECONDS)


def retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that the server asks to wait, at most a minute."""
    value = error.headers.get("Retry-After", "") if error.headers else ""
    return min(float(value), 60.0) if value.isdigit() else 0.0


def _tag_file(target: Path) -> Path:
    return target.with_name(target.name + ".etag")
