"""The server as a process of its own: requests, reload and restart under load, an orderly end, a browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_siger import cli
from recbole_siger.recommend.recommender import Recommender
from tests.unit.serve.conftest import N_USERS, TOKEN, draw_run

ROOT = Path(__file__).parents[2]
pytest.importorskip("fastapi", reason="needs the extra `serve`")

# ---- refused starts, in this process


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host=0.0.0.0"], "--host=0.0.0.0: other machines can reach this address"),
        (["--port=70000"], "port=70000: expected a number in [0, 65535]"),
        (["--threads=0"], "threads=0: expected a number in [1, 256]"),
        (["--token_file=missing"], "missing: no such file of a token"),
        (["--images=missing"], "--images=missing: no such folder"),
        (["--tokn_file=x"], "serve has no option --tokn_file"),
    ],
)
def test_a_bad_start_is_one_line_and_a_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("RECBOLE_SIGER_TOKEN", raising=False)
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)
    run = draw_run(tmp_path / "run")
    assert cli.main(["serve", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_place_without_a_run_and_a_port_in_use(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)
    assert cli.main(["serve", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such folder; name a run folder or a folder of runs" in capsys.readouterr().err
    run = draw_run(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["serve", str(run), f"--port={taken.getsockname()[1]}"]) == 2
    assert "Address already in use; choose another --port" in capsys.readouterr().err


def test_without_the_extra_the_line_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *a: None if name == "uvicorn" else find(name, *a))
    assert cli.main(["serve", "runs"]) == 2
    assert 'serve needs uvicorn; run `pip install "recbole-siger[serve]"`' in capsys.readouterr().err


def test_the_help_imports_neither_torch_nor_fastapi() -> None:
    code = (
        "import sys\nfrom recbole_siger import cli\nassert cli.main(['serve', '--help']) == 0\n"
        "print({'torch', 'fastapi', 'uvicorn', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


# ---- processes


class Serving:
    """A server process, and its lines."""

    def __init__(self, *words: object, **environment: str) -> None:
        command = [sys.executable, "-m", "recbole_siger.cli", "serve", *map(str, words)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for(r"serving at http://.*:(\d+)/")[1])

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait_for(self, pattern: str, seconds: float = 120) -> re.Match[str]:
        """Wait for a line."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in [*self.lines]:
                if found := re.search(pattern, line):
                    return found
            assert self.process.poll() is None, "".join(self.lines)
            time.sleep(0.05)
        raise AssertionError("".join(self.lines))

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        return code


@contextlib.contextmanager
def serving(*words: object, **environment: str) -> Iterator[Serving]:
    server = Serving(*words, **environment)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def get(port: int, path: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content)


class Load:
    """Clients that ask one server without a pause; a connection is used until an answer asks to close it."""

    def __init__(self, port: int, n_clients: int = 6) -> None:
        self.port, self.failures, self.answers = port, [], 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(n_clients)]

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        user = number
        while not self._stop.is_set():
            user = (user + 5) % N_USERS
            try:
                connection.request("GET", f"/recommend?user=u{user + 1}&k=3")
                answer = connection.getresponse()  # http.client connects again after `Connection: close`
                content = json.loads(answer.read())
                if answer.status != 200 or len(content["items"]) != 3:
                    self.failures.append(content)
                self.answers += 1
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append(repr(error))
                connection.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, n: int = 50) -> None:
        """Wait for some more answers."""
        wanted, end = self.answers + n, time.monotonic() + 60
        while self.answers < wanted:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.slow
def test_reload_and_restart_under_load_lose_no_request(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    draw_run(runs / "first", seed=3)
    with serving(runs, "--port=0", "--reuse_port") as old, Load(old.port) as load:
        load.go_on()
        second = draw_run(runs / "second", seed=4)
        old.process.send_signal(signal.SIGHUP)
        old.wait_for("reloaded: serving second")
        load.go_on()
        want = Recommender.load(second).recommend(["u5"], 3)["item"].tolist()
        assert [row["item"] for row in get(old.port, "/recommend?user=u5&k=3")[1]["items"]] == want
        broken = draw_run(runs / "third", seed=5)
        (broken / "embeddings.safetensors").write_bytes(b"damaged")
        old.process.send_signal(signal.SIGHUP)
        old.wait_for("reload failed, still serving second: .*embeddings.safetensors: damaged")
        load.go_on()
        shutil.rmtree(broken)
        old.process.send_signal(signal.SIGHUP)
        old.wait_for("reload: second is the newest complete run already")
        with serving(runs, f"--port={old.port}", "--reuse_port") as new:
            load.go_on()
            assert old.end() == 0
            assert old.lines[-1] == "stopped; requests without an answer: 0\n"
            load.go_on(200)
            assert load.failures == []
            assert get(new.port, "/run")[1]["run"] == "second"
        load.failures.clear()  # the second server was killed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered_after_the_signal(number: int, tmp_path: Path) -> None:
    run = draw_run(tmp_path / "run")
    body = json.dumps({"user": "u3", "k": 3}).encode()
    with serving(run, "--port=0") as server:
        length = f"Content-Length: {len(body)}\r\n\r\n"
        head = f"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}"
        idle = socket.create_connection(("127.0.0.1", server.port))
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as flying:
            flying.sendall(head.encode() + body[:5])
            time.sleep(0.3)
            server.process.send_signal(number)
            time.sleep(0.3)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.port), timeout=5)
            flying.sendall(body[5:])
            answer = b"".join(iter(lambda: flying.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" in answer
        assert b'"source":"user"' in answer
        assert server.process.wait(30) == 0
        idle.close()


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_the_last_line_counts_requests_without_an_answer(signals: int, tmp_path: Path) -> None:
    run = draw_run(tmp_path / "run")
    with serving(run, "--port=0", "--stop_seconds=1", "--drain_seconds=0") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as flying:
            flying.sendall(b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            time.sleep(0.3)
            for _ in range(signals):
                server.process.send_signal(signal.SIGTERM)
                time.sleep(0.1)
            assert server.process.wait(30) == 0
        server._reader.join(10)
        assert server.lines[-1] == "stopped; requests without an answer: 1\n"


@pytest.mark.slow
def test_a_token_opens_another_address_and_is_not_printed(tmp_path: Path) -> None:
    run = draw_run(tmp_path / "run")
    with serving(run, "--port=0", "--host=0.0.0.0", RECBOLE_SIGER_TOKEN=TOKEN) as server:
        assert get(server.port, "/health") == (200, {"status": "ok"})
        assert get(server.port, "/run")[0] == 401
        assert get(server.port, "/run", Authorization=f"Bearer {TOKEN}")[0] == 200
        for sent in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 100_000 + b"\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
                raw.sendall(sent)
                assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
        assert server.end() == 0
        text = "".join(server.lines)
        assert TOKEN not in text
        assert "Traceback" not in text


# ---- the page of the documentation


def requests_of_the_page(page: str) -> Iterator[tuple[bool, list[str], int, str]]:
    """Yield whether the server has a token, the words of each `curl`, the status and the answer."""
    for before, block in re.findall(r"([^\n]*)\n\n```console\n(.*?)^```", page, flags=re.M | re.S):
        for command, status, answer in re.findall(
            r"^\$ (curl .*)\n(\d{3}) (.*\n(?:(?!\$ ).*\n)*)", block, flags=re.M
        ):
            yield "With a token" in before, shlex.split(command)[1:], int(status), answer.rstrip("\n")


def send(port: int, words: list[str], folder: Path) -> tuple[int, str]:
    """Send the request of a `curl` command."""
    method, body, headers, url = None, None, {}, ""
    rest = iter(words)
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-d":
            data = next(rest)
            body = (folder / data[1:]).read_bytes() if data.startswith("@") else data.encode()
        elif word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value.replace("Bearer TOKEN", f"Bearer {TOKEN}")
        else:
            url = word.removeprefix("localhost:8000")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method or ("POST" if body else "GET"), url, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def form_of(value: Any) -> Any:
    """Return the names and types of a JSON value; `source`, `ignored` and `rank` with their values."""
    if isinstance(value, dict):
        fixed = ("source", "ignored", "rank", "error", "status", "added", "n_new_items", "limits")
        forms = {key: one if key in fixed else form_of(one) for key, one in value.items()}
        return {**forms, **({"title": None} if "title" in forms else {})}  # a text or null
    return [form_of(one) for one in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.slow
@pytest.mark.parametrize("has_token", [False, True])
def test_the_transcript_of_the_page(has_token: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    words = ["run", "--model=VBPR", "--dataset=ml-100k", "--epochs=1", "--train_batch_size=8192"]
    assert cli.main([*words, "--run_dir=runs/siger"]) == 0
    (program,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    Path("program.py").write_text(program)
    subprocess.run([sys.executable, "program.py"], check=True)
    asked = [one for one in requests_of_the_page(page) if one[0] == has_token]
    assert len(asked) >= (3 if has_token else 20)
    environment = {"RECBOLE_SIGER_TOKEN": TOKEN if has_token else ""}
    with serving(tmp_path / "runs" / "siger", "--port=0", **environment) as server:
        for _, curl, status, shown in asked:
            found_status, found = send(server.port, curl, tmp_path)
            assert found_status == status, (curl, found)
            if shown.startswith("{"):
                assert form_of(json.loads(found)) == form_of(json.loads(shown)), curl
            else:
                assert set(shown.splitlines()) - {"..."} <= set(found.splitlines()), curl


# ---- a browser


def browser_program() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def has_contrast(page: Any, selector: str) -> bool:
    """Compare the colours of a text and what is behind it, by WCAG's ratio of 4.5."""
    ratio: float = page.evaluate(
        """selector => {
          const parts = text => text.match(/[\\d.]+/g).map(Number);
          const light = colour => parts(colour).slice(0, 3).map(c => c / 255)
            .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
          let behind = document.querySelector(selector), own = getComputedStyle(behind).color;
          const paper = element => getComputedStyle(element || document.body).backgroundColor;
          while (behind && /, 0\\)$/.test(paper(behind))) behind = behind.parentElement;
          const [a, b] = [light(own), light(paper(behind))].sort((x, y) => x - y);
          return (b + 0.05) / (a + 0.05);
        }""",
        selector,
    )
    return ratio >= 4.5


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63e8675a0600022500f7e0ee64bc0000000049454e44ae426082"
)


@pytest.mark.slow
@pytest.mark.skipif(browser_program() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(scheme: Any, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    run = draw_run(tmp_path / "run")
    (run / "images").mkdir()
    (run / "images" / "i7.png").write_bytes(PIXEL)
    shots = Path(os.environ.get("SERVE_SCREENSHOTS", tmp_path))
    with serving(run, "--port=0", "--host=0.0.0.0", RECBOLE_SIGER_TOKEN=TOKEN) as server:
        with playwright.sync_playwright() as driver:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            browser = driver.chromium.launch(executable_path=browser_program(), args=flags)
            page = browser.new_context(
                color_scheme=scheme, viewport={"width": 1000, "height": 900}
            ).new_page()
            problems: list[str] = []
            asked: set[str] = set()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on(
                "request", lambda request: asked.add(request.url.split("/")[2] if "//" in request.url else "")
            )
            page.goto(f"http://127.0.0.1:{server.port}/")
            page.wait_for_selector("#token-row:not([hidden])")
            page.fill("#token", TOKEN)
            page.fill("#user", "u3")
            page.fill("#k", "12")
            page.click("text=Recommend")
            page.wait_for_selector("#recommended li")
            check_recommendations(page, playwright.expect, run)
            page.screenshot(path=str(shots / f"serve-{scheme}.png"), full_page=True)
            check_a_new_user(page, playwright.expect)
            check_a_failure(page, playwright.expect)
            page.screenshot(path=str(shots / f"serve-{scheme}-failure.png"), full_page=True)
            page.set_viewport_size({"width": 360, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            page.set_viewport_size({"width": 1000, "height": 900})
            page.goto(f"http://127.0.0.1:{server.port}/docs")
            assert page.locator("h2").count() >= 8
            page.screenshot(path=str(shots / f"serve-{scheme}-docs.png"))
            browser.close()
        assert problems == []
        assert asked <= {f"127.0.0.1:{server.port}", ""}
        assert server.end() == 0


def check_recommendations(page: Any, expect: Any, run: Path) -> None:
    want = Recommender.load(run).recommend(["u3"], 12)["item"].tolist()
    names = page.locator("#recommended li .name").all_inner_texts()
    titled = {f"i{n}": f"<b>Thing</b> {n}" for n in range(1, 24, 2)}  # markup is shown, not run
    assert names == [titled.get(item, item) for item in want]
    assert page.locator("#recommended li b").count() == 0
    assert page.locator("#recommended p").inner_text() == "Scores of the model for this user of the run."
    assert "LightGCN on drawn, run run: 29 users, 23 items" in page.locator("#facts").inner_text()
    if "i7" in want:
        expect(page.locator("#recommended img")).to_have_js_property("naturalWidth", 1)
    for selector in (
        "h1",
        "#facts",
        "#recommended .name",
        "#recommended .quiet",
        "#recommended button",
        "button.main",
    ):
        assert has_contrast(page, selector), selector


def check_a_new_user(page: Any, expect: Any) -> None:
    page.locator("#recommended li button", has_text="Add to history").first.click()
    page.fill("#user", "nobody")
    page.click("text=Recommend")
    expect(page.locator("#recommended h2")).to_have_text("For user nobody")
    expect(page.locator("#recommended p")).to_contain_text("Scores of the items in the history.")
    page.fill("#history", "zz")
    page.click("text=Recommend")
    expect(page.locator("#recommended p")).to_contain_text("Popular items")
    assert "Not in the run: zz." in page.locator("#recommended p").inner_text()
    page.locator("#recommended li button", has_text="Similar").first.click()
    expect(page.locator("#similar h2")).to_have_text("Similar to <b>Thing</b> 1")


def check_a_failure(page: Any, expect: Any) -> None:
    page.fill("#user", "u" * 201)
    page.click("text=Recommend")
    expect(page.locator("[role=alert]")).to_have_text("user: an id has more than 200 characters")
    assert has_contrast(page, "[role=alert]")
