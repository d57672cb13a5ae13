"""Send many prompts: in parallel, at a limited rate, with retries, and each prompt only once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from recbole_siger.errors import UserError
from recbole_siger.profiles.cache import AnswerCache
from recbole_siger.profiles.prompts import Prompt
from recbole_siger.profiles.providers import Provider, TryAgainError, UnreachableError

__all__ = ["Manners", "ask_all"]

LONGEST_WAIT = 60.0
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Manners:
    """Limits and retries of requests; see ``properties/profiles.yaml``."""

    retries: int
    backoff: float
    concurrency: int
    requests_per_minute: float | None

    def pause(self, attempt: int, after: float | None) -> float:
        """Return the seconds to wait after failure number ``attempt``, from 0.

        >>> [Manners(5, 1.0, 1, None).pause(attempt, None) for attempt in range(7)]
        [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
        """
        return min(max(self.backoff * 2.0**attempt, after or 0.0), LONGEST_WAIT)


def ask_all(
    provider: Provider,
    prompts: Mapping[str, Prompt],
    cache: AnswerCache,
    manners: Manners,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Request the answers missing in the cache; a thread stores each answer before its next request.

    Args:
        provider: The provider that answers.
        prompts: Key -> prompt.
        cache: Storage of answers.
        manners: Limits and retries.
        report: Called with each line for the user.

    Returns:
        Key -> reason, for prompts without an answer from a provider that can be reached.

    Raises:
        UserError: If the provider rejects a request, or cannot be reached.
    """
    todo = {key: prompt for key, prompt in prompts.items() if key not in cache.answers}
    asking = _Asking(provider, cache, manners, report, len(todo))
    with ThreadPoolExecutor(manners.concurrency if provider.parallel else 1) as pool:
        futures = [pool.submit(asking.ask, key, prompt) for key, prompt in todo.items()]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done() and (error := future.exception()):
                    raise error
        finally:
            asking.stop.set()
            pool.shutdown(cancel_futures=True)
    return asking.failed


class _Asking:
    def __init__(
        self,
        provider: Provider,
        cache: AnswerCache,
        manners: Manners,
        report: Callable[[str], None],
        n_todo: int,
    ) -> None:
        self.provider, self.cache, self.manners, self.report = provider, cache, manners, report
        self.failed: dict[str, str] = {}
        self.stop = threading.Event()
        self._lock, self._next = threading.Lock(), time.monotonic()
        self._done, self._n_todo, self._told = 0, n_todo, time.monotonic()

    def ask(self, key: str, prompt: Prompt) -> None:
        """Send a prompt until an answer arrives or the retries are used up."""
        for attempt in range(self.manners.retries + 1):
            self._take_turn()
            if self.stop.is_set():
                return
            try:
                answer = self.provider.ask(prompt)
            except TryAgainError as error:
                if attempt < self.manners.retries:
                    seconds = self.manners.pause(attempt, error.after)
                    self._tell(f"{prompt.token}: {error}; again in {seconds:g} s")
                    self.stop.wait(seconds)
                elif isinstance(error, UnreachableError):
                    raise UserError(
                        f"{error}; check that the server is running. Received answers are stored."
                    ) from None
                else:
                    self.failed[key] = f"{prompt.token}: {error}"
            else:
                self.cache.add(key, answer)
                with self._lock:
                    self._done += 1
                self._tell(f"{self._done:,} of {self._n_todo:,} answers", last=self._done == self._n_todo)
                return

    def _take_turn(self) -> None:
        """Wait until the next request may be sent."""
        if self.manners.requests_per_minute is None:
            return
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + 60.0 / self.manners.requests_per_minute
        self.stop.wait(max(0.0, turn - time.monotonic()))

    def _tell(self, line: str, last: bool = False) -> None:
        """Report a line from time to time, and the last line."""
        with self._lock:
            now = time.monotonic()
            if last or now - self._told >= SECONDS_BETWEEN_LINES:
                self._told = now
                self.report(line)
