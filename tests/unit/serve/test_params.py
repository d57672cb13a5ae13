"""Who may ask a server, and where it may listen."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_siger.errors import UserError
from recbole_siger.serve.params import check_host, is_loopback, read_token
from tests.unit.serve.conftest import TOKEN, params


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    check_host(params(host=host), None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", "", "127.0.0.1.example.org"])
def test_other_addresses_need_a_token(host: str) -> None:
    with pytest.raises(UserError, match=r"other machines can reach this address.*RECBOLE_SIGER_TOKEN"):
        check_host(params(host=host), None)
    check_host(params(host=host), TOKEN)


def test_the_token_is_read_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RECBOLE_SIGER_TOKEN", raising=False)
    assert read_token(params()) is None
    monkeypatch.setenv("RECBOLE_SIGER_TOKEN", TOKEN)
    assert read_token(params()) == TOKEN
    assert read_token(params(token_env="ANOTHER")) is None
    file = tmp_path / "token"
    file.write_text("another-token-of-a-file\nsecond line\n")
    assert read_token(params(token_file=str(file))) == "another-token-of-a-file"


@pytest.mark.parametrize(
    "token", ["short", "with blanks in the middle", "with-ü-that-is-no-ascii", "x" * 1001, ""]
)
def test_a_bad_token_is_refused_and_never_shown(token: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token, encoding="utf-8")
    with pytest.raises(UserError, match="16 to 1000 visible ASCII characters") as refused:
        read_token(params(token_file=str(file)))
    assert not token or token not in str(refused.value)
    with pytest.raises(UserError, match="no such file of a token"):
        read_token(params(token_file=str(tmp_path / "missing")))
