"""What the suite relies on to run in two processes."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("suite")
def test_xdist_knows_the_group_of_a_test(request: pytest.FixtureRequest) -> None:
    """Versions of pytest and pytest-xdist that do not fit together ignore groups and report nothing."""
    assert request.node.nodeid.endswith("@suite") is ("PYTEST_XDIST_WORKER" in os.environ)
