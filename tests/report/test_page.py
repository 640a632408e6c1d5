"""The page in a real browser: drawn without an error, in light and dark, zoomed and hovered; and its script parses."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Page, sync_playwright

from genlock.report.page import write_report

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-headless-shell", "google-chrome", "chromium-browser")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PATIENCE_MS = 30_000


def test_the_script_parses(tmp_path: Path) -> None:
    """Also where there is no browser: with the interpreter that the browser's driver brings."""
    node = compute_driver_executable()[0]
    script = Path(__file__).parents[2] / "src" / "genlock" / "report" / "page.js"
    checked = subprocess.run([node, "--check", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: install one of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=[*FLAGS], timeout=PATIENCE_MS)
        yield opened
        opened.close()


def opened(browser: Any, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """The page, drawn, and what its console said."""
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE_MS)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-drawn=yes]", state="attached")
    return page, said


def test_a_failed_run_is_shown_with_its_first_cause(browser: Any, killed: Path, tmp_path: Path) -> None:
    write_report([killed], tmp_path / "r.html")
    page, said = opened(browser, tmp_path / "r.html", viewport={"width": 1200, "height": 900})
    assert page.locator(".pill").inner_text() == "failed: GL-RANK-01"
    who = r"rank 1 \(pid \d+\), in phase generator call, call \d+, chunk 2"
    assert re.search(who, page.locator(".failure").inner_text()), "as the terminal says it"
    unended = page.locator("#timeline rect.open")
    assert unended.count() >= 1
    silent = page.locator("#timeline rect[fill='url(#silent)']")
    assert silent.count() >= 1, "the killed rank was in its span to the end"
    assert "without a sign of life" in page.locator(".keys").first.inner_text()
    before = page.locator("#timeline rect.span").count()
    assert before > 20
    page.click("#last")
    page.locator("#window", has_text=re.compile(r"^(?!0\.00 to)")).wait_for()
    denoise = page.locator("#timeline rect[fill='var(--denoise)'][fill-opacity='1']").first
    denoise.hover()
    assert page.locator("#tip").inner_text().startswith(("denoise", "text"))
    assert "chunk" in page.locator("#tip").inner_text()
    page.focus("#timeline")
    page.keyboard.press("0")
    page.locator("#window", has_text=re.compile(r"^0\.00 to")).wait_for()
    assert page.locator(".strip img").evaluate_all("all => all.every(each => each.naturalWidth > 0)")
    assert said == [], "nothing is fetched, nothing is refused by the page's own policy"
    page.close()


def test_the_page_is_readable_in_light_and_dark_and_on_a_phone(browser: Any, alone: Path, tmp_path: Path) -> None:
    write_report([alone], tmp_path / "r.html")
    luminance = (
        "() => ['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name]"
        ".match(/\\d+/g).slice(0, 3).reduce((sum, each) => sum + Number(each), 0) / 765)"
    )
    for scheme, light_paper in (("light", True), ("dark", False)):
        page, said = opened(browser, tmp_path / "r.html", color_scheme=scheme)
        assert page.locator(".pill").inner_text() == "ended well"
        paper, ink = page.evaluate(luminance)
        assert (paper > 0.9, ink > 0.7) == (light_paper, not light_paper)
        assert said == []
        page.close()
    page, _ = opened(browser, tmp_path / "r.html", viewport={"width": 390, "height": 800})
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "only charts and tables scroll to the side"
    beyond = page.locator(".chart.scroll text").evaluate_all(
        "all => all.filter(e => e.getBoundingClientRect().right > 390).length"
    )
    assert beyond == 0, "what bars say is on the screen"
    said_of = page.locator("th", has_text="measured is").bounding_box()
    assert said_of is not None
    assert said_of["x"] + said_of["width"] <= 390
    page.close()


def test_two_runs_are_held_beside_each_other(browser: Any, killed: Path, alone: Path, tmp_path: Path) -> None:
    write_report([alone, killed], tmp_path / "r.html")
    page, said = opened(browser, tmp_path / "r.html")
    assert page.locator("h1").all_inner_texts() == [f"A: {alone.name}", f"B: {killed.name}"]
    assert "→" in page.locator("[data-figure=period_ms] b").inner_text()
    assert page.locator("[data-figure=period_ms] .delta").inner_text()[0] in "+−"
    assert page.locator("th", has_text="B − A").count() == 1
    differences = page.locator("table", has_text="B − A").locator("tbody td:last-child").all_inner_texts()
    assert all(re.fullmatch(r"[+−][\d,.]+|0\.0", words) for words in differences), differences
    assert "NaN" not in page.locator("main").inner_text()
    assert re.match(r"\d of 2 → \d of 1\n", page.locator("[data-figure=late_chunks]").inner_text())
    assert page.locator("[data-figure=late_chunks] .delta").count() == 0
    assert page.locator(".periods").count() == 2
    assert said == []
    page.close()
