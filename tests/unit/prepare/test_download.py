"""Downloads from a server on localhost that cuts, refuses, moves on to another version, or is not there."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from recbole_siger import cli
from recbole_siger.errors import UserError
from recbole_siger.prepare.download import ATTEMPTS, Download, fetch, fetch_all
from tests.unit.prepare.conftest import manifest
from tests.unit.prepare.sources.test_amazon import reviews

DATA = bytes(range(256)) * 4_000
"""About a megabyte."""


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``cuts`` bytes of each answer's body in turn, ``statuses`` in turn before that."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.seen: list[str | None] = []
        self.ranges, self.tags, self.shift = True, True, 0
        self.length, self.drip = True, 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.seen.append(wanted)
        data = server.files.get(self.path.lstrip("/"))
        if server.statuses or data is None:
            return self.send_error(server.statuses.pop(0) if server.statuses else 404)
        tag, start = f'"{hashlib.md5(data).hexdigest()}"', 0
        if wanted and server.ranges and self.headers.get("If-Range") in (tag, "ignored"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            start -= server.shift
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if server.tags:
            self.send_header("ETag", tag)
        if server.length:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        with suppress(ConnectionError):  # a client may leave
            for byte in body if server.drip else b"":
                self.wfile.write(bytes([byte]))
                time.sleep(server.drip)
            self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.files["data.bin"] = DATA
        yield running
        running.shutdown()
        thread.join()


class Waits(list[float]):
    """Stands for ``time.sleep``."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def get(server: Server, path: Path, **options: Any) -> tuple[list[str], Waits]:
    lines: list[str] = []
    waits = Waits()
    values = {"max_bytes": 2 * len(DATA), "report": lines.append, "wait": waits} | options
    fetch(f"{server.url}/data.bin", path, **values)
    return lines, waits


def only(folder: Path, *names: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_file_and_its_checksum(server: Server, tmp_path: Path, kind: str) -> None:
    lines, waits = get(server, tmp_path / "x", checksum=f"{kind}:{hashlib.new(kind, DATA).hexdigest()}")
    assert (tmp_path / "x").read_bytes() == DATA
    assert (lines, waits, only(tmp_path, "x")) == ([], [], True)


def test_cuts_are_continued(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 200_000]
    lines, waits = get(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.seen == [None, "bytes=300000-", "bytes=500000-"]
    assert waits == [1.0, 2.0]
    assert len(lines) == 2
    assert lines[0].startswith("note: x: ")
    assert lines[0].endswith("attempt 2 of 5")
    assert only(tmp_path, "x")


def test_a_later_call_continues_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000] * ATTEMPTS
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*\); run the command again to continue"):
        get(server, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "x.part").stat().st_size == 100_000 * ATTEMPTS
    get(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.seen[-1] == f"bytes={100_000 * ATTEMPTS}-"


def test_two_downloads_of_one_file_do_not_mix(server: Server, tmp_path: Path) -> None:
    """Both would append to one part. The second process is told to wait, and the file is whole."""
    server.statuses = [503]
    waits, goes_on = threading.Event(), threading.Event()

    def wait(seconds: float) -> None:
        waits.set()
        assert goes_on.wait(60)

    first = threading.Thread(target=get, args=(server, tmp_path / "x"), kwargs={"wait": wait})
    first.start()
    assert waits.wait(60)
    with pytest.raises(UserError, match=r"x: another process downloads this file; wait"):
        get(server, tmp_path / "x")
    goes_on.set()
    first.join()
    assert (tmp_path / "x").read_bytes() == DATA
    assert only(tmp_path, "x")


def test_a_part_of_another_version_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000] + [0] * (ATTEMPTS - 1)
    with pytest.raises(UserError):
        get(server, tmp_path / "x")
    server.files["data.bin"] = DATA[::-1]
    get(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA[::-1]


@pytest.mark.parametrize("lacks", ["ranges", "tags"])
def test_a_server_that_cannot_continue_sends_all_again(server: Server, tmp_path: Path, lacks: str) -> None:
    setattr(server, lacks, False)
    server.cuts = [300_000]
    get(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_part_that_is_the_whole_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(DATA)
    (tmp_path / "x.part.etag").write_text(f'"{hashlib.md5(DATA).hexdigest()}"')
    get(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert only(tmp_path, "x")


def test_another_part_than_asked_for_is_not_appended(server: Server, tmp_path: Path) -> None:
    server.cuts, server.shift = [300_000], 100
    lines, _ = get(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.seen == [None, "bytes=300000-", None]
    assert "the server continues at another position" in lines[1]


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(DATA + b"more")
    (tmp_path / "x.part.etag").write_text("ignored")
    get(server, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert only(tmp_path, "x")


def test_passing_troubles_are_waited_for(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500, 502]
    _, waits = get(server, tmp_path / "x")
    assert waits == [1.0, 2.0, 4.0, 8.0]
    server.statuses = [503] * ATTEMPTS
    with pytest.raises(UserError, match="the server answers 503 Service Unavailable"):
        get(server, tmp_path / "y")


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(server: Server, tmp_path: Path, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(UserError, match=f"the server answers {status}"):
        get(server, tmp_path / "x")
    assert len(server.seen) == 1
    assert only(tmp_path)


def test_a_wrong_checksum_deletes_what_came(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its sha256 is \w{64}, expected 0; the downloaded file is deleted"):
        get(server, tmp_path / "x", checksum="sha256:0")
    assert only(tmp_path)


def test_a_file_that_is_too_large_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    says = rf"sends {len(DATA):,} bytes, and this file has at most {len(DATA) - 1:,} bytes; what was"
    with pytest.raises(UserError, match=says):
        get(server, tmp_path / "x", max_bytes=len(DATA) - 1)
    assert only(tmp_path)


def test_a_file_without_an_end_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.length = False
    checksum = f"md5:{hashlib.md5(DATA).hexdigest()}"
    with pytest.raises(UserError, match="sends more, and this file has at most 9,999 bytes"):
        get(server, tmp_path / "x", max_bytes=9_999, checksum=checksum)
    assert only(tmp_path)


def test_a_file_without_a_length_needs_a_checksum(server: Server, tmp_path: Path) -> None:
    server.length = False
    with pytest.raises(UserError, match=r"states no length, .*SHA256SUMS, as sha256sum prints it"):
        get(server, tmp_path / "x")
    assert not list(tmp_path.glob("x*t"))
    get(server, tmp_path / "x", checksum=f"md5:{hashlib.md5(DATA).hexdigest()}")
    assert (tmp_path / "x").read_bytes() == DATA
    server.cuts = [300_000]
    with pytest.raises(UserError, match="its md5 is"):
        get(server, tmp_path / "y", checksum=f"md5:{hashlib.md5(DATA).hexdigest()}")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"TIMEOUT": 0.2, "SLOWEST": 1_024}, "the server sends less than 1,024 bytes a second"),
        ({"TIMEOUT": 9.0, "TOTAL": 0.2}, "the answer takes too long|timed out"),
    ],
)
def test_a_server_that_drips(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], reason: str
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(f"recbole_siger.prepare.download.{name}", value)
    monkeypatch.setattr("recbole_siger.prepare.download.ATTEMPTS", 2)
    server.drip, server.files["data.bin"] = 0.02, DATA[:400]
    with pytest.raises(UserError, match=rf"cannot be downloaded \(({reason})\)"):
        get(server, tmp_path / "x")
    assert server.seen == [None, f"bytes={server.seen[1].removeprefix('bytes=')}"]  # type: ignore[union-attr]
    assert 0 < (tmp_path / "x.part").stat().st_size < 400  # kept, to be continued


@pytest.mark.parametrize(
    "mirror", ["http://user:SECRET@host/x", "ftp://host", "http://[::1", "http://h\u00f6st", "host"]
)
def test_a_mirror_that_is_none(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(UserError, match=r"^mirror=") as caught:
        fetch_all([Download("http://x", "other", 99)], tmp_path / "raw", mirror=mirror, report=print)
    assert "SECRET" not in str(caught.value)
    assert only(tmp_path)


def test_no_network(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound, and nobody listens
        waits = Waits()
        with pytest.raises(UserError) as caught:
            fetch(
                f"http://127.0.0.1:{port}/a.gz",
                tmp_path / "a.gz",
                max_bytes=9,
                report=lambda line: None,
                wait=waits,
            )
    message = str(caught.value)
    assert "cannot be downloaded (Connection refused); run the command again to continue, or" in message
    assert message.endswith(f"put the file into {tmp_path} as a.gz and run the command without --download.")
    assert "\n" not in message
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_an_address_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetch("no address", tmp_path / "a", max_bytes=9, report=lambda line: None, wait=Waits())


def test_what_is_there_is_not_fetched_and_a_list_of_checksums_holds(server: Server, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"mine")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(DATA).hexdigest()}  data.bin\n{'0' * 64} *other\n")
    server.files["other"] = b"other"
    lines: list[str] = []
    wanted = [Download("http://nowhere.invalid/a", name, 2**30) for name in ("there", "data.bin")]
    fetch_all(wanted, tmp_path, mirror=f"{server.url}/", report=lines.append)
    assert lines == [
        f"{tmp_path / 'there'}: exists already",
        f"{tmp_path / 'data.bin'}: downloading {server.url}/data.bin",
        f"{tmp_path / 'data.bin'}: {len(DATA):,} bytes",
    ]
    assert (tmp_path / "there").read_bytes() == b"mine"
    with pytest.raises(UserError, match=f"expected {'0' * 64}"):
        fetch_all([Download("http://x", "other", 99)], tmp_path, mirror=server.url, report=lines.append)


@pytest.mark.parametrize(
    ("listed", "complaint"),
    [
        ("\ufeff{}  other\r\n".encode(), "expected abab"),  # PowerShell: a mark, upper case
        ("{}  other\n".encode("utf-16"), "SHA256SUMS: is not UTF-8; save it as UTF-8"),
        (b"# sums\n\n{} other\n", r"SHA256SUMS:3: .* is not the SHA-256 of a file; write 64 hexadecimal"),
    ],
)
def test_a_list_of_checksums_is_never_ignored(
    server: Server, tmp_path: Path, listed: bytes, complaint: str
) -> None:
    digits = "AB" * 32
    for encoding in ("ascii", "utf-16-le"):
        listed = listed.replace("{}".encode(encoding), digits.encode(encoding))
    (tmp_path / "SHA256SUMS").write_bytes(listed)
    server.files["other"] = b"other"
    with pytest.raises(UserError, match=complaint):
        fetch_all([Download("http://x", "other", 99)], tmp_path, mirror=server.url, report=print)
    assert not (tmp_path / "other").exists()


def test_prepare_downloads_what_it_reads(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.files["reviews_Baby_5.json.gz"] = gzip.compress(
        "".join(json.dumps(record) + "\n" for record in reviews()).encode()
    )
    server.files["meta_Baby.json.gz"] = gzip.compress(b"{'asin': 'i1', 'title': 'One'}\n")
    server.files["image_features_Baby.b"] = b"i1        " + b"\0\0\x80\x3f" * 4096
    words = [
        "--category=Baby",
        "--source=raw",
        "--name=baby",
        "--k_core=0",
        "--download",
        f"--mirror={server.url}",
    ]
    assert cli.main(["prepare", "amazon", *words]) == 0
    assert manifest(Path("dataset/baby"))["features"]["image"]["rows"] == 1


def test_nothing_is_downloaded_for_a_target_that_is_taken(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dataset/baby").mkdir(parents=True)
    words = ["--category=Baby", "--source=raw", "--name=baby", "--download", f"--mirror={server.url}"]
    assert cli.main(["prepare", "amazon", *words]) == 2
    assert "exists already" in capsys.readouterr().err
    assert server.seen == []


def test_prepare_unpacks_movielens(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("made.zip", "w") as content:
        rows = [f"{user}\t{item}\t3\t{item}\n" for user in range(4) for item in range(5)]
        content.writestr("ml-100k/u.data", "".join(rows))
    server.files["ml-100k.zip"] = server.files["ml-25m.zip"] = Path("made.zip").read_bytes()
    words = ["prepare", "movielens", "--source=raw", "--name=ml", "--k_core=0", "--download"]
    mirror = f"--mirror={server.url}"
    assert (
        cli.main([*words, mirror, "--edition=ml-100k"]) == 2
    )  # not the archive that GroupLens prints the sum of
    assert "expected 0e33842e24a9c977be4e0107933c0723" in capsys.readouterr().err
    assert cli.main([*words, mirror, "--edition=ml-25m"]) == 0
    assert manifest(Path("dataset/ml"))["counts"]["interactions"] == 20
    assert cli.main([*words, mirror, "--overwrite"]) == 2
    assert "edition='': expected one of ml-100k" in capsys.readouterr().err
