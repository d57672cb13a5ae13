"""The page of runs in a real browser: nothing leaves the window at any width, in light and dark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.report.page import report_page
from tests.integration.test_serve import browser_program, has_contrast
from tests.unit.report.conftest import finish_run

OUTSIDE = """() => [...document.querySelectorAll('body *')]
  .filter(one => !one.closest('.wide') || one.matches('.wide'))
  .filter(one => one.getClientRects().length)
  .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(one => one.tagName)"""
CUT_OFF = """() => [...document.querySelectorAll('.wide')].filter(box => {
  box.scrollLeft = 1e6;
  const edge = box.getBoundingClientRect().right + 0.5;
  const cells = [...box.querySelectorAll('tr > :last-child')];
  return cells.some(cell => cell.getClientRects().length && cell.getBoundingClientRect().right > edge);
}).length"""


def pages(tmp_path: Path) -> Path:
    """Write a page of three models with many metrics and long names."""
    values = {
        f"{name}@{k}": 0.0625 for name in ("recall", "ndcg", "precision", "hit", "mrr") for k in (5, 10)
    }
    runs = [
        finish_run(tmp_path / f"{model}{seed}", model, seed, 0.2, test=values, valid=values)
        for model, seed in (("LightGCN", 3), ("LightGCN", 5), ("A" * 47, 3), ("BPR", 3))
    ]
    report_page([str(run) for run in runs], str(tmp_path / "page.html"))
    return tmp_path / "page.html"


@pytest.mark.slow
@pytest.mark.skipif(browser_program() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_element_leaves_the_window(scheme: Any, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    file = pages(tmp_path)
    shots = Path(os.environ.get("REPORT_SCREENSHOTS", tmp_path))
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=browser_program(), args=flags)
        page = browser.new_context(color_scheme=scheme).new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
        for width in (400, 900, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(file.as_uri())
            page.screenshot(path=str(shots / f"report-{scheme}-{width}.png"), full_page=True)
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(OUTSIDE) == []
            assert page.evaluate(CUT_OFF) == 0
        for selector in ("h1", "td", "th", "caption", "strong", "figcaption", "summary", "pre", ".quiet"):
            assert has_contrast(page, selector), selector
        browser.close()
    assert set(asked) <= {"file", "data"}
