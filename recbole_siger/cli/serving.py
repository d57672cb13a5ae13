"""The command that serves a finished run over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from recbole_siger.cli.command import Command, options_of
from recbole_siger.cli.common import given
from recbole_siger.cli.declared import option_rows, read_dataclass, shipped_files
from recbole_siger.errors import UserError

__all__ = ["COMMANDS"]

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def serve_command() -> Command:
    """Return the command ``serve``."""
    return Command(
        "serve",
        _serve,
        [
            click.Argument(["run"]),
            *options_of(
                option_rows(shipped_files("serve.yaml"), read_dataclass("serve.params", "ServeParams"))
            ),
        ],
        usage="RUN [--port=8000] [--host=ADDRESS] [--token_file=FILE] [--images=FOLDER]",
        summary="Serve recommendations of a run, or of the newest complete run of a folder, over HTTP.",
        example="recbole-siger serve runs/ml-100k/SIGER-20260101-120000-seed2020 --port=8000",
        note=(
            "SIGHUP loads the newest complete run without downtime. At SIGTERM and Ctrl-C the server answers "
            "the requests in flight and ends."
        ),
    )


def _serve(run: str, **values: Any) -> None:
    from importlib.util import find_spec

    missing = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f'serve needs {" and ".join(missing)}; run `pip install "recbole-siger[serve]"`')
    from recbole_siger.options.command import command_params
    from recbole_siger.serve.params import ServeParams
    from recbole_siger.serve.run import serve

    typed = {key: str(value) for key, value in given(**values).items()}
    serve(run, command_params(ServeParams, "serve", typed))


COMMANDS: dict[str, Callable[[], Command]] = {"serve": serve_command}
