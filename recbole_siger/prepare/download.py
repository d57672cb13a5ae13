"""Download of raw files: with progress, resumed after an interruption, verified, retried."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from recbole_siger.common.locks import LOCK, locked
from recbole_siger.common.net import check_address, open_url
from recbole_siger.errors import UserError

__all__ = ["Download", "fetch", "fetch_all"]

CHUNK = 2**20
ATTEMPTS = 5
TIMEOUT = 60.0
"""An attempt fails after this number of seconds without a byte."""

TOTAL = 86_400.0
"""Seconds of one attempt. What has arrived is kept, so that a later attempt continues."""

SLOWEST = 1_024
"""Bytes a second, averaged over ``TIMEOUT`` seconds, below which an attempt fails."""

PASSING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses of temporary failures."""


@dataclass(frozen=True)
class Download:
    """A file of a server.

    Attributes:
        url: Its address.
        name: Its name in the folder of raw files.
        max_bytes: More bytes than the file has in any edition. A download stops there.
        checksum: The checksum that the publisher states, ``md5:...`` or ``sha256:...``, or None.
    """

    url: str
    name: str
    max_bytes: int
    checksum: str | None = None


def fetch_all(
    downloads: Sequence[Download], folder: Path, *, mirror: str | None, report: Callable[[str], None]
) -> None:
    """Download the files that are missing in ``folder``.

    A file listed in the folder's ``SHA256SUMS`` (in the format of ``sha256sum``) must have the listed
    checksum. Any other file must have the publisher's checksum, if the publisher gives one.

    Args:
        downloads: The files.
        folder: Folder of the files; made if it is missing.
        mirror: Download each file from ``<mirror>/<name>`` instead of its own address.
        report: Called with each line for the user.

    Raises:
        UserError: If a file cannot be downloaded, or its checksum is wrong.
    """
    if mirror is not None:
        mirror = check_address("mirror", mirror, "http://localhost:8000/files")
    folder.mkdir(parents=True, exist_ok=True)
    listed = _listed(folder / "SHA256SUMS")
    for one in downloads:
        path = folder / one.name
        if path.exists():
            report(f"{path}: exists already")
            continue
        url = f"{mirror}/{one.name}" if mirror else one.url
        report(f"{path}: downloading {url}")
        fetch(
            url,
            path,
            max_bytes=one.max_bytes,
            checksum=listed.get(one.name, one.checksum),
            report=report,
        )
        report(f"{path}: {path.stat().st_size:,} bytes")


def _listed(path: Path) -> dict[str, str]:
    """Return file -> checksum of a list that ``sha256sum`` has written; empty if the list is missing.

    Raises:
        UserError: If the list is not UTF-8 or a line is not a checksum and a file name.
    """
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; save it as UTF-8") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S.*)", line)
        if match:
            found[match[2]] = f"sha256:{match[1].lower()}"
        elif line.strip() and not line.startswith("#"):
            raise UserError(
                f"{path}:{number}: {line[:80]!r} is not the SHA-256 of a file; write 64 hexadecimal digits, "
                "two spaces and the name, as sha256sum does"
            )
    return found


def fetch(
    url: str,
    path: Path,
    *,
    max_bytes: int,
    checksum: str | None = None,
    report: Callable[[str], None] = print,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Download one file; ``path`` appears once the file is complete and its checksum is right.

    The received part is kept in ``<path>.part``. The next attempt or call continues the part if the server
    still has the same file. A temporary failure is retried after 1, 2, 4 and 8 seconds.

    Args:
        url: An http or https address.
        path: The file to write.
        max_bytes: Most bytes of the file.
        checksum: ``md5:...`` or ``sha256:...``; None accepts any file whose length the server states.
        report: Called with a line about each failed attempt.
        wait: Called with the seconds before each further attempt.

    Raises:
        UserError: If the server cannot be reached, rejects the request, sends more than ``max_bytes``, or
            sends a file with a wrong checksum, or if another process downloads the file.
    """
    busy = f"{path}: another process downloads this file; wait until the process ends"
    with locked(path.with_name(f".{path.name}{LOCK}"), busy):
        _fetch_locked(url, path, max_bytes, checksum, report, wait)


def _fetch_locked(
    url: str,
    path: Path,
    max_bytes: int,
    checksum: str | None,
    report: Callable[[str], None],
    wait: Callable[[float], None],
) -> None:
    """Do what :func:`fetch` does, with the lock of ``path``."""
    part = path.with_name(f"{path.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _receive(url, part, max_bytes, checked=checksum is not None)
            break
        except urllib.error.HTTPError as error:
            reason, passing = f"the server answers {error.code} {error.reason}", error.code in PASSING
            error.close()
        except (OSError, http.client.HTTPException, ValueError) as error:  # no network, cut off, bad address
            reason, passing = _reason(error), not isinstance(error, ValueError)
        if not passing or attempt == ATTEMPTS:
            raise UserError(
                f"{url}: cannot be downloaded ({reason}); run the command again to continue, or put the file "
                f"into {path.parent} as {path.name} and run the command without --download."
            )
        report(f"note: {path.name}: {reason}; attempt {attempt + 1} of {ATTEMPTS}")
        wait(2.0 ** (attempt - 1))
    _check(url, part, checksum)
    part.replace(path)
    _tag(part).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    return " ".join(str(getattr(cause, "strerror", None) or cause or type(cause).__name__).split())


def _tag(part: Path) -> Path:
    """Return the file that stores the server's mark (ETag) of the version of ``part``."""
    return part.with_name(f"{part.name}.etag")


def _receive(url: str, part: Path, max_bytes: int, *, checked: bool) -> None:
    """Append the rest of ``url`` to ``part``; start again if the server cannot continue the part.

    Raises:
        OSError, UserError: As :func:`_write`.
    """
    tag, start = _tag(part), part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "recbole-siger"}
    if start and tag.exists():
        headers |= {"Range": f"bytes={start}-", "If-Range": tag.read_text(encoding="utf-8")}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = open_url(request, stall=TIMEOUT, total=TOTAL)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return  # the part is complete: the last attempt ended before the file was moved
        _discard(part)
        raise OSError("the partial file does not match the server's file and is deleted") from None
    with response:
        if response.status == 206 and not _continues(response.headers.get("Content-Range"), start):
            _discard(part)
            raise OSError("the server continues at another position; the partial file is deleted")
        if response.status != 206:
            start = 0
            _keep_tag(tag, response.headers.get("ETag") or response.headers.get("Last-Modified"))
        _write(url, response, part, start, max_bytes, checked=checked)


def _write(
    url: str, response: http.client.HTTPResponse, part: Path, start: int, max_bytes: int, *, checked: bool
) -> None:
    """Append the body of a response to ``part``, whose first ``start`` bytes are kept.

    Raises:
        OSError: If the connection fails, ends early or is too slow; what has arrived stays.
        UserError: If the file has more than ``max_bytes``, or its end could be a cut.
    """
    length = response.headers.get("Content-Length")
    whole = start + int(length) if length else None
    if (whole or 0) > max_bytes:
        raise _too_large(url, part, whole, max_bytes)
    if whole is None and not response.chunked and not checked:
        raise UserError(
            f"{url}: the server states no length, so that a cut cannot be noticed; write the file's checksum "
            f"into {part.with_name('SHA256SUMS')}, as sha256sum prints it, or download the file yourself."
        )
    with part.open("ab" if start else "wb") as handle, _progress(part, start, whole) as advance:
        for chunk in _chunks(response):
            handle.write(chunk)
            advance(len(chunk))
            if handle.tell() > max_bytes:
                raise _too_large(url, part, None, max_bytes)
    size = part.stat().st_size
    if whole is not None and size < whole:
        raise OSError(f"the connection ended after {size:,} of {whole:,} bytes")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives, as it arrives.

    Raises:
        OSError: If it is less than ``SLOWEST`` in a period of ``TIMEOUT`` seconds, or the connection fails.
    """
    began, arrived = time.monotonic(), 0
    while chunk := response.read1(CHUNK):
        yield chunk
        arrived += len(chunk)
        if (seconds := time.monotonic() - began) >= TIMEOUT:
            if arrived < SLOWEST * seconds:
                raise OSError(f"the server sends less than {SLOWEST:,} bytes a second")
            began, arrived = time.monotonic(), 0


def _too_large(url: str, part: Path, whole: int | None, max_bytes: int) -> UserError:
    """Delete what has arrived, and return the error."""
    _discard(part)
    size = "more" if whole is None else f"{whole:,} bytes"
    return UserError(
        f"{url}: sends {size}, and this file has at most {max_bytes:,} bytes; what was downloaded is "
        "deleted. Check the address, or download the file yourself."
    )


def _continues(content_range: str | None, start: int) -> bool:
    return (content_range or "").startswith(f"bytes {start}-")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _keep_tag(tag: Path, mark: str | None) -> None:
    """Store the mark of a version; a part without a mark, or with a weak one, cannot be continued."""
    if mark and not mark.startswith("W/"):
        tag.write_text(mark, encoding="utf-8")
    else:
        tag.unlink(missing_ok=True)


@contextmanager
def _progress(part: Path, start: int, whole: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; yield a function that accepts the number of received bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(part.stem, total=whole, completed=start)
        yield lambda size: progress.advance(task, size)


def _check(url: str, part: Path, checksum: str | None) -> None:
    if checksum is None:
        return
    kind, _, expected = checksum.partition(":")
    with part.open("rb") as handle:
        found = hashlib.file_digest(handle, kind).hexdigest()
    if found != expected:
        _discard(part)
        raise UserError(
            f"{url}: its {kind} is {found}, expected {expected}; the downloaded file is deleted. Run the "
            "command again, or correct SHA256SUMS if you want this newer edition of the file."
        )
