"""Providers of answers: a server with OpenAI's interface, or a transformers model in this process."""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from recbole_siger.common.net import TooLongError, check_address, open_url, read_whole
from recbole_siger.errors import UserError
from recbole_siger.extract.encoder import loading, require, state_sha256, versions_of
from recbole_siger.profiles.prompts import Prompt

__all__ = ["OpenAICompatible", "Provider", "TransformersModel", "TryAgainError", "UnreachableError"]

RETRIED = {408, 409, 425, 429}
"""HTTP statuses below 500 after which the same request may succeed."""

MAX_ANSWER = 2**24
"""Bytes of an answer: far more than the text of any answer."""


class TryAgainError(Exception):
    """A failed request that may succeed on retry.

    Attributes:
        after: Seconds to wait, if the server states them.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class UnreachableError(TryAgainError):
    """The provider cannot be reached; the failure does not depend on the prompt."""


class Provider(Protocol):
    """A provider of answers.

    Attributes:
        facts: Facts besides the prompt that decide an answer; part of the cache key and of the manifest.
        parallel: Whether several threads may send prompts at the same time.
    """

    facts: Mapping[str, Any]
    parallel: bool

    def ask(self, prompt: Prompt) -> dict[str, Any]:
        """Return ``{"text": ..., "prompt_tokens": ..., "answer_tokens": ...}``; raise TryAgainError."""
        ...


class OpenAICompatible:
    """``POST <base_url>/chat/completions``. The API key is sent, but never stored, written or logged."""

    parallel = True

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        max_tokens: int,
        temperature: float,
        timeout: float,
    ) -> None:
        address = check_address("base_url", base_url, "http://localhost:8000/v1")
        self._key = None
        if api_key_env is not None:
            self._key = os.environ.get(api_key_env, "").strip()
            if not self._key:
                raise UserError(f"api_key_env={api_key_env!r}: the environment has no such variable; set it.")
            if not re.fullmatch(r"[!-~]+", self._key):  # http.client would reject the key and print it
                raise UserError(
                    f"api_key_env={api_key_env!r}: the value has blanks, line ends or letters outside ASCII, "
                    "which no API key has; correct the value."
                )
        self._url, self._timeout = f"{address}/chat/completions", timeout
        self._asked = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
        self.facts: Mapping[str, Any] = {"provider": "openai-compatible", **self._asked}

    def ask(self, prompt: Prompt) -> dict[str, Any]:
        """Send one request.

        Raises:
            TryAgainError: If the server is busy, failed, timed out, or gave no answer.
            UserError: If the server rejected the request.
        """
        body = json.dumps({**self._asked, "messages": _messages(prompt)}).encode()
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        try:
            # The answer comes whole within `timeout`. A redirect would carry the key to another server.
            with open_url(request, stall=self._timeout, total=self._timeout, redirects=False) as response:
                data = read_whole(response, MAX_ANSWER)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except TooLongError as error:
            raise UserError(f"{self._url}: sends {error}; check --base_url.") from None
        except (OSError, http.client.HTTPException) as error:  # includes URLError and timeouts
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise UnreachableError(f"{self._url}: {reason}") from None
        return _read_answer(data)

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        try:
            with error:
                told = error.read(2**16).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):  # the connection ends within the reason
            told = ""
        told = " ".join(told.split()) or str(error.reason)
        if self._key:  # before the text is truncated, which may leave a part of the key
            told = told.replace(self._key, "***")
        said = f"{self._url}: status {error.code}: {told[:200]}"
        if error.code in RETRIED or error.code >= 500:
            after = error.headers.get("Retry-After", "")
            return TryAgainError(said, float(after) if after.isdecimal() else None)
        return UserError(f"{said}; check --base_url, --model and --api_key_env.")


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    question = {"role": "user", "content": prompt.question}
    return [{"role": "system", "content": prompt.system}, question] if prompt.system else [question]


def _read_answer(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        if not isinstance(text, str) or not text.strip():
            raise ValueError("an empty answer")
        return {
            "text": _whole(text),
            "prompt_tokens": _count(usage.get("prompt_tokens")),
            "answer_tokens": _count(usage.get("completion_tokens")),
        }
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise TryAgainError(f"malformed answer ({type(error).__name__}: {error})") from None


def _whole(text: str) -> str:
    """Replace unpaired surrogates at the end of a truncated answer: JSON can encode them and UTF-8 cannot."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


class TransformersModel:
    """A causal language model of transformers, by folder or name; one prompt at a time."""

    parallel = False

    def __init__(self, model: str, *, device: str, max_tokens: int, temperature: float) -> None:
        option = f"model={model!r}"
        transformers = require("transformers", "profiles", option)
        if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
            raise UserError(f"{option}: no such folder; name a folder with a transformers model.")
        with loading(option):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            self._model = transformers.AutoModelForCausalLM.from_pretrained(model).to(device).eval()
        self._max_tokens, self._temperature = max_tokens, temperature
        self.facts: Mapping[str, Any] = {
            "provider": "transformers",
            "model": Path(model).name if Path(model).is_dir() else model,
            "weights_sha256": state_sha256(self._model),
            "temperature": temperature,
            "max_tokens": max_tokens,
            "versions": versions_of("transformers", "torch"),
        }

    def ask(self, prompt: Prompt) -> dict[str, Any]:
        """Generate an answer; equal prompts give equal answers, at any temperature.

        Raises:
            TryAgainError: If the answer is empty.
            UserError: If the prompt and its answer exceed the model's length limit.
        """
        import torch

        inputs = self._inputs(prompt)
        n_prompt = inputs["input_ids"].shape[1]
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room is not None and n_prompt + self._max_tokens > room:
            raise UserError(
                f"{prompt.token}: a prompt of {n_prompt:,} tokens and max_tokens={self._max_tokens} exceed "
                f"the model's limit of {room:,}; lower --max_tokens or --max_history, or name fewer "
                "--text_cols."
            )
        torch.manual_seed(int(prompt.key(self.facts)[:8], 16))
        chosen = (
            {"do_sample": True, "temperature": self._temperature}
            if self._temperature
            else {"do_sample": False}
        )
        with torch.inference_mode():
            (output,) = self._model.generate(
                **inputs, max_new_tokens=self._max_tokens, pad_token_id=self._tokenizer.eos_token_id, **chosen
            )
        text = self._tokenizer.decode(output[n_prompt:], skip_special_tokens=True)
        if not text.strip():
            raise TryAgainError("an empty answer")
        return {"text": text, "prompt_tokens": n_prompt, "answer_tokens": len(output) - n_prompt}

    def _inputs(self, prompt: Prompt) -> Any:
        """Return the tokens of a prompt; a chat template adds the special tokens."""
        chat = bool(self._tokenizer.chat_template)
        text = self._chat(prompt) if chat else f"{prompt.system}\n\n{prompt.question}\n"
        tokens = self._tokenizer(text, return_tensors="pt", add_special_tokens=not chat)
        return tokens.to(self._model.device)

    def _chat(self, prompt: Prompt) -> str:
        from jinja2 import TemplateError

        def fill(turns: list[dict[str, str]]) -> str:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

        try:
            return fill(_messages(prompt))
        except TemplateError:  # the template does not support a system part
            return fill([{"role": "user", "content": f"{prompt.system}\n\n{prompt.question}"}])
