"""Runs of a campaign as tasks of Ray, on this machine or on a cluster with shared storage."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from recbole_siger.parallel.ray import check_room, connected, failure_line, rooms
from recbole_siger.studies.children import Children, Report, running_children, silent

__all__ = ["RayChildren", "ray_children", "room_for_runs"]

_DEVICE = ("--gpu_id=", "--use_gpu=")


class RayChildren(Children):
    """The running commands, one a task of Ray. After :meth:`stop`, no other command starts.

    Args:
        cpus: CPUs that Ray reserves for a command.
        gpus: GPUs that Ray reserves for a command.
    """

    def __init__(self, cpus: float, gpus: float) -> None:
        super().__init__()
        import ray

        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run_command)
        self._refs: set[Any] = set()

    def run(self, words: Sequence[str], report: Report) -> tuple[int, str]:
        """Run one command of the package on a node with free resources, and wait for its end.

        Args:
            words: The command and its options.
            report: Receives the name of the node. The run folder has the log of the command.

        Returns:
            Exit code, and what the command printed to stderr.
        """
        import ray

        with self._lock:
            if self.stopped:
                return 130, "interrupted"
            reference = self._task.remote(list(words), os.getcwd())
            self._refs.add(reference)
        try:
            code, complaint, node = ray.get(reference)
        except ray.exceptions.TaskCancelledError:
            return 130, "interrupted"
        except ray.exceptions.RayError as error:  # a node was lost
            return 1, failure_line(str(error))
        finally:
            with self._lock:
                self._refs.discard(reference)
        report(f"ended on {node}")
        return code, complaint

    def stop(self) -> None:
        """Cancel every command."""
        import ray

        with self._lock:
            self.stopped = True
            running = list(self._refs)
        for reference in running:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(reference)


@contextmanager
def ray_children(cpus: float, gpus: float) -> Iterator[Children]:
    """Yield children that are tasks of the Ray to which this process is connected."""
    with running_children():  # for its handler of SIGTERM
        yield RayChildren(cpus, gpus)


@contextmanager
def room_for_runs(address: str, cpus: float, gpus: float) -> Iterator[tuple[int, str]]:
    """Connect to Ray for the duration of the block.

    Args:
        address: As for :func:`recbole_siger.parallel.ray.connected`.
        cpus: CPUs of a run.
        gpus: GPUs of a run.

    Yields:
        How many runs fit at a time, and a line about Ray's nodes.

    Raises:
        UserError: If Ray is not reachable, or if no node has the resources of one run.
    """
    needed = {"CPU": cpus, "GPU": gpus}
    with connected(address, "reproduce", library="util") as (_, about):
        check_room(1, needed, f"--cpus_per_run={cpus:g} --gpus_per_run={gpus:g}", "lower them")
        yield rooms(needed), about


def _run_command(words: list[str], folder: str) -> tuple[int, str, str]:
    """Run a command in a folder of this node; cancelling the task ends the command."""
    import ray

    given = ",".join(str(gpu) for gpu in ray.get_gpu_ids())
    kept = [word for word in words if not word.startswith(_DEVICE)]
    # A run that is continued stays on its kind of device.
    words = [*kept, f"--gpu_id={given}", *([f"--use_gpu={bool(given)}"] if words[0] == "run" else [])]
    with contextlib.chdir(folder):
        code, complaint = Children().run(words, silent)
    return code, complaint, os.uname().nodename
