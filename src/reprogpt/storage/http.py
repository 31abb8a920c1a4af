"""HTTP transfers: a retry helper, and files downloaded with resume and a progress bar."""

import http.client
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from reprogpt.errors import DISK, ConfigError
from reprogpt.runtime.progress import progress
from reprogpt.storage.files import CHUNK, naming

T = TypeVar("T")
CONNECT_SECONDS = 5.0
"""Timeout of a connection: a server that takes longer is down, and a mirror may answer."""
STALL_SECONDS = 30.0
"""Timeout between two reads: after it the transfer is broken off and resumed."""
ATTEMPTS = 5
PAUSE = 1.0
"""Seconds before the second attempt, doubled before each further one."""
RETRIED = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status codes of failures that pass."""


class TransferError(OSError):
    """A transfer failed for good."""


def retried(call: Callable[[], T], what: str = "") -> T:
    """The result of ``call()``, called again with exponential back-off while its failures may pass.

    Raises TransferError, naming ``what``, for any other failure and after ATTEMPTS attempts.
    """
    prefix = f"{what}: " if what else ""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except (TransferError, ConfigError):
            raise
        except Exception as error:  # huggingface_hub raises whatever its HTTP client raises
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            reason, wait = _reason(error), _seconds_to_wait(error)
            if wait is None:
                raise TransferError(prefix + reason) from None
        if attempt < ATTEMPTS:
            # Jitter, so that many processes do not ask again at the same moment.
            time.sleep(max(wait, PAUSE * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)))
    raise TransferError(f"{prefix}gave up after {ATTEMPTS} attempts: {reason}")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        reason = f"HTTP {error.code} {error.reason}"
    else:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
    # The server's words may hold escape sequences for the terminal.
    return "".join(c if c.isprintable() else "?" for c in reason)


def _seconds_to_wait(error: Any) -> float | None:
    """Seconds that the server asks to wait (at most 60); None when a retry is of no use."""
    answer = getattr(error, "response", None)  # as httpx and requests have it
    status = getattr(error, "code", None) if answer is None else answer.status_code
    if isinstance(status, int):
        value = (error if answer is None else answer).headers.get("Retry-After", "")
        seconds = min(float(value), 60.0) if value.isdecimal() else 0.0
        return seconds if status in RETRIED else None
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"TransportError", "LocalEntryNotFoundError"}:  # httpx's; huggingface_hub's
        return 0.0
    passing = isinstance(error, OSError | http.client.HTTPException)
    return 0.0 if passing and not isinstance(error, FileNotFoundError) else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and sends the access token to no other host and never without TLS."""

    def redirect_request(self, req, *arguments):  # type: ignore[no-untyped-def]
        following = super().redirect_request(req, *arguments)
        if following is not None and (following.host != req.host
                                      or (req.type == "https" and following.type != "https")):
            following.remove_header("Authorization")
        return following


_OPENER = urllib.request.build_opener(_Redirects)


def open_url(url: str, headers: Mapping[str, str], timeout: float,
             start: int = 0) -> http.client.HTTPResponse:
    """The answer to a GET request. Raises OSError, also for a range that begins elsewhere."""
    request = urllib.request.Request(url, headers={"User-Agent": "reprogpt", **headers})  # noqa: S310
    answer: http.client.HTTPResponse = _OPENER.open(request, timeout=timeout)
    sent = answer.headers.get("Content-Range", "")
    if answer.status == 206 and not sent.startswith(f"bytes {start}-"):
        answer.close()
        raise OSError("the server sent another range than it was asked for")
    return answer


def download_url(url: str, target: Path) -> None:
    """Downloads ``url`` to ``target``, and resumes a partial file that is there.

    When the file has changed on the server (its entity tag is kept beside the partial file), the
    download starts over. A server that cannot be reached is not retried. Raises TransferError.
    """
    tag_file = target.with_name(target.name + ".etag")
    retried(lambda: _transfer(url, target, tag_file))
    tag_file.unlink(missing_ok=True)


def _transfer(url: str, target: Path, tag_file: Path) -> None:
    have = target.stat().st_size if target.is_file() else 0
    tag = tag_file.read_text() if have and tag_file.is_file() else ""
    headers = {"Range": f"bytes={have}-", "If-Range": tag} if tag else {}
    try:
        answer = open_url(url, headers, CONNECT_SECONDS, have)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not tag:
            raise
        target.unlink()  # the partial file is as long as the whole one: start over
        return _transfer(url, target, tag_file)
    except urllib.error.URLError as error:
        raise TransferError(f"cannot be reached ({error.reason})") from None
    with answer:
        # urllib has no public way to change the timeout of an open connection.
        connection = getattr(getattr(answer.fp, "raw", None), "_sock", None)
        if connection is not None:
            connection.settimeout(STALL_SECONDS)
        start = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        etag = answer.headers.get("ETag", "")
        # If-Range needs a strong tag. Without one, a broken transfer starts over.
        if etag and not etag.startswith("W/"):
            tag_file.write_text(etag)
        bar = progress(desc=target.name, total=total, initial=start, unit="B", unit_scale=True,
                       delay=1)
        with naming(target), target.open("ab" if start else "wb") as out, bar:
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    if total is not None and target.stat().st_size != total:
        raise http.client.IncompleteRead(b"", total - target.stat().st_size)
    return None
