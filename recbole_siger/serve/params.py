"""Options of the command ``serve``: where the server listens, who may ask, and limits."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from recbole_siger.errors import UserError
from recbole_siger.options.params import bounded
from recbole_siger.options.resources import regular_file

__all__ = ["ServeParams", "check_host", "is_loopback", "read_token"]

MIN_TOKEN, MAX_TOKEN = 16, 1000


@dataclass(frozen=True, kw_only=True)
class ServeParams:
    """Options of ``serve``; the defaults and their meanings are in ``properties/serve.yaml``."""

    host: str
    port: int = bounded("[0, 65535]")
    token_env: str
    token_file: str | None
    images: str | None
    threads: int = bounded("[1, 256]")
    reuse_port: bool
    drain_seconds: float = bounded("[0, 3600]")
    stop_seconds: int = bounded("[1, 3600]")
    max_k: int = bounded("[1, inf)")
    max_ids: int = bounded("[1, inf)")
    max_id_length: int = bounded("[1, inf)")
    max_body_bytes: int = bounded("[1024, inf)")
    max_new_items: int = bounded("[0, inf)")
    max_requests: int = bounded("[1, inf)")


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(params: ServeParams, token: str | None) -> None:
    """Refuse an address that other machines can reach if there is no token.

    Raises:
        UserError: With the address and the fix.
    """
    if token is None and not is_loopback(params.host):
        raise UserError(
            f"command line: --host={params.host}: other machines can reach this address, so the server "
            f"requires a token; set the environment variable {params.token_env} or --token_file=FILE, "
            "or listen on 127.0.0.1"
        )


def read_token(params: ServeParams) -> str | None:
    """Return the token of the server, or None if neither a file nor a variable has a token.

    Raises:
        UserError: If the token is shorter than 16 characters or has characters other than visible ASCII. The
            message never contains the token.
    """
    if params.token_file is not None:
        path = regular_file(Path(params.token_file), "file of a token", "correct --token_file")
        with path.open("rb") as stream:
            line = stream.readline(MAX_TOKEN + 2)
        return _checked(line.decode("ascii", errors="replace").strip(), f"--token_file={params.token_file}")
    value = os.environ.get(params.token_env, "")
    return _checked(value, f"environment variable {params.token_env}") if value else None


def _checked(token: str, source: str) -> str:
    if not re.fullmatch(rf"[!-~]{{{MIN_TOKEN},{MAX_TOKEN}}}", token):
        raise UserError(
            f"{source}: the token needs {MIN_TOKEN} to {MAX_TOKEN} visible ASCII characters without blanks; "
            'make one with `python -c "import secrets; print(secrets.token_urlsafe())"`'
        )
    return token
