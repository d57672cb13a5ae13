"""What a server can do wrong, and a model in this process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.errors import UserError
from recbole_siger.profiles.prompts import Prompt
from recbole_siger.profiles.providers import (
    OpenAICompatible,
    TransformersModel,
    TryAgainError,
    UnreachableError,
)
from tests.unit.profiles.server import Server, answer, serving

PROMPT = Prompt("i1", "Be brief.", "What is it?")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def provider(url: str, **changes: Any) -> OpenAICompatible:
    return OpenAICompatible(url, "small", **({"max_tokens": 9, "temperature": 0.5, "timeout": 5.0} | changes))


def test_what_is_sent_and_what_comes_back(server: Server) -> None:
    assert provider(server.url + "/").ask(PROMPT) == {
        "text": "Profile\n0.",
        "prompt_tokens": 7,
        "answer_tokens": 3,
    }
    (body,) = server.requests
    assert body == {
        "model": "small",
        "temperature": 0.5,
        "max_tokens": 9,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is it?"},
        ],
    }
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert "Authorization" not in server.headers[0]
    provider(server.url).ask(Prompt("i1", "", "Alone?"))
    assert [one["role"] for one in server.requests[1]["messages"]] == ["user"]


def test_the_key_is_sent_and_never_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "s3cret")
    one = provider(server.url, api_key_env="SHOP_KEY")
    one.ask(PROMPT)
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(one.facts)
    server.reply = lambda number, body: (401, {}, b'{"error": "key s3cret is wrong"}')
    with pytest.raises(UserError, match=r"status 401: .*key \*\*\* is wrong.*--api_key_env") as caught:
        one.ask(PROMPT)
    assert "s3cret" not in str(caught.value)


def test_no_half_of_a_key_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", "s3cret-s3cret")
    server.reply = lambda number, body: (401, {}, b"no:" + b" " * 390 + b"s3cret-s3cret")
    with pytest.raises(UserError, match=r"status 401: no: \*\*\*; check") as caught:
        provider(server.url, api_key_env="SHOP_KEY").ask(PROMPT)
    assert "s3cret" not in str(caught.value)


def test_a_key_with_a_line_end_is_stripped(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", " s3cret\r\n")
    provider(server.url, api_key_env="SHOP_KEY").ask(PROMPT)
    assert server.headers[0]["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("key", ["s3cret\ns3cret", "s3cret\u2019"])
def test_a_key_that_is_none_is_not_told(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("SHOP_KEY", key)
    with pytest.raises(UserError, match="api_key_env='SHOP_KEY': the value has blanks") as caught:
        provider("http://127.0.0.1:9/v1", api_key_env="SHOP_KEY").ask(PROMPT)
    assert "s3cret" not in str(caught.value)


def test_an_answer_that_was_cut_within_a_character(server: Server) -> None:
    told = b'{"choices": [{"message": {"content": "cut \\ud83d"}}], "usage": {"prompt_tokens": "12"}}'
    server.reply = lambda number, body: (200, {}, told)
    expected = {"text": "cut \ufffd", "prompt_tokens": None, "answer_tokens": None}
    assert provider(server.url).ask(PROMPT) == expected


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.reply = lambda number, body: (status, {"Retry-After": "7"}, b"later")
    with pytest.raises(TryAgainError, match=f"status {status}: later") as caught:
        provider(server.url).ask(PROMPT)
    assert caught.value.after == 7.0
    assert not isinstance(caught.value, UnreachableError)


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_ends_it(server: Server, status: int) -> None:
    server.reply = lambda number, body: (status, {"Location": "http://127.0.0.1:9/"}, b"no\nsuch model")
    with pytest.raises(UserError, match=f"status {status}: no such model"):
        provider(server.url).ask(PROMPT)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}', answer(" ")[2]],
)
def test_a_malformed_answer_is_asked_for_again(server: Server, data: bytes) -> None:
    server.reply = lambda number, body: (200, {}, data)
    with pytest.raises(TryAgainError, match="malformed answer"):
        provider(server.url).ask(PROMPT)


def test_a_slow_server(server: Server) -> None:
    def late(number: int, body: dict[str, Any]) -> Any:
        time.sleep(0.5)
        return answer("late")

    server.reply = late
    with pytest.raises(UnreachableError, match="timed out"):
        provider(server.url, timeout=0.1).ask(PROMPT)


def test_no_server() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        with pytest.raises(UnreachableError, match="refused"):
            provider(f"http://127.0.0.1:{taken.getsockname()[1]}").ask(PROMPT)


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "file:///etc/passwd", "http://", "http://me:pw@host/v1"),
        *("http://[::1/v1", "http://[zz]/v1", "http://host:port/v1", "http://host:99999999/v1"),
        *(
            "http://h\u00f6st/v1",
            "http://host/v\u0661",
            "http://host/a b",
            "http://host/\x1b[31m",
            "http://a\n/v1",
        ),
    ],
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UserError, match="base_url=") as caught:
        provider(url)
    assert "pw@" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_address_with_an_ipv6_host() -> None:
    provider("http://[::1]:8000/v1")


def test_an_answer_without_an_end(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr("recbole_siger.profiles.providers.MAX_ANSWER", 1_000)
    server.reply = lambda number, body: (200, {}, b"x" * 1_001)
    with pytest.raises(UserError, match="sends an answer of more than 1,000 bytes; check --base_url"):
        provider(server.url).ask(PROMPT)


def dripping(data: bytes) -> tuple[str, threading.Event]:
    """Start a server that sends ``data`` and then a byte each 20 ms; setting the event ends it."""
    ready, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        connection = ready.accept()[0]
        with connection, contextlib.suppress(OSError):
            connection.recv(10_000)
            connection.sendall(data)
            while not stop.wait(0.02):
                connection.sendall(b"x")
        ready.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{ready.getsockname()[1]}/v1", stop


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 500 ",
    ],
    ids=["body", "length", "chunk", "header", "status"],
)
def test_an_answer_that_drips(data: bytes) -> None:
    url, stop = dripping(data)
    began = time.monotonic()
    try:
        with pytest.raises(TryAgainError, match=r"timed out|takes too long|IncompleteRead|malformed"):
            provider(url, timeout=0.3).ask(PROMPT)
    finally:
        stop.set()
    assert time.monotonic() - began < 5


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_KEY", raising=False)
    with pytest.raises(UserError, match="no such variable"):
        provider("http://localhost/v1", api_key_env="SHOP_KEY")


# ---- what needs the extra `profiles`


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model of transformers with random weights, which knows 40 words."""
    pytest.importorskip("transformers", reason="needs the extra `profiles`")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    words = {word: i for i, word in enumerate(["<end>", "<unk>", *(f"w{i}" for i in range(38))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>").save_pretrained(
        folder
    )
    torch.manual_seed(2)
    config = GPT2Config(vocab_size=40, n_positions=64, n_embd=8, n_layer=1, n_head=2, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_local_model_gives_the_same_answer_again(model_folder: Path, temperature: float) -> None:
    options: dict[str, Any] = {"device": "cpu", "max_tokens": 5, "temperature": temperature}
    one, two = (TransformersModel(str(model_folder), **options) for _ in range(2))
    first = one.ask(PROMPT)
    one.ask(Prompt("i2", "", "Another?"))
    assert two.ask(PROMPT) == first == one.ask(PROMPT)
    assert first["text"].strip()
    assert 1 <= first["answer_tokens"] <= 5
    assert one.facts["model"] == model_folder.name
    assert not one.parallel


@pytest.mark.parametrize("knows_system", [True, False])
def test_a_chat_template_is_taken_as_it_is(model_folder: Path, knows_system: bool) -> None:
    """The first token, which the template writes, stands there once; a system part finds a place."""
    from tokenizers import processors

    one = TransformersModel(str(model_folder), device="cpu", max_tokens=5, temperature=0.0)
    single = processors.TemplateProcessing(single="<end> $A", special_tokens=[("<end>", 0)])
    one._tokenizer.backend_tokenizer.post_processor = single
    refusal = "" if knows_system else "{% if turn.role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    one._tokenizer.chat_template = (
        "<end>{% for turn in messages %}" + refusal + " {{ turn.content }}{% endfor %} w37"
    )
    assert one._inputs(Prompt("i1", "w0 w1", "w2"))["input_ids"].tolist() == [[0, 2, 3, 4, 39]]
    one._tokenizer.chat_template = None
    assert one._inputs(Prompt("i1", "w0 w1", "w2"))["input_ids"].tolist() == [[0, 2, 3, 4]]


def test_a_prompt_beyond_the_model_is_one_line(model_folder: Path) -> None:
    one = TransformersModel(str(model_folder), device="cpu", max_tokens=5, temperature=0.0)
    assert one.ask(Prompt("i1", "", "w1 " * 59))["prompt_tokens"] == 59
    with pytest.raises(UserError, match=r"i1: a prompt of 60 tokens and max_tokens=5 exceed .* 64; lower"):
        one.ask(Prompt("i1", "", "w1 " * 60))


def test_a_local_model_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra `profiles`")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="model="):
            TransformersModel(str(folder), device="cpu", max_tokens=5, temperature=0.0)
