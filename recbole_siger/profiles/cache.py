"""Answers on disk, one for each line, so that no prompt is sent twice."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from recbole_siger.errors import UserError

__all__ = ["AnswerCache"]


def _parse(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the answers, and the bytes of complete lines; a crash may have truncated the last line.

    Raises:
        UserError: If another line is damaged.
    """
    answers, n_good = {}, 0
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                answers[entry["key"]] = entry
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: line {number:,} is damaged; delete that line.") from None
            n_good += len(line)
    return answers, n_good


class AnswerCache:
    """A JSONL file to which answers are appended; an answer counts once it is on disk. Thread-safe."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = path, threading.Lock()
        self._handle = path.open("ab")
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._handle.close()
            raise UserError(
                f"{path}: another process is writing these answers; wait until it ends."
            ) from None
        try:
            self.answers, n_good = _parse(path)
        except UserError:
            self._handle.close()
            raise
        self._handle.truncate(n_good)

    def add(self, key: str, answer: dict[str, Any]) -> None:
        """Append an answer."""
        line = json.dumps({"key": key, **answer}, ensure_ascii=False) + "\n"
        with self._lock:
            self._handle.write(line.encode())
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self.answers[key] = {"key": key, **answer}

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.answers:  # without any answer the empty file is removed
            self._path.unlink()
        self._handle.close()
