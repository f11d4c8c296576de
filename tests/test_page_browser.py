"""A page in headless Chromium: all players load, keys switch versions, nothing is fetched."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiovq.config.speech import SAMPLE_RATE
from audiovq.plots.page import PagePlayer, PageSection, write_page
from helpers.models import speech

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
)
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1180, "height": 900}
LOADED = "[...document.querySelectorAll('audio')].every(audio => audio.readyState > 0 || audio.error)"
PLAYERS = """[...document.querySelectorAll('audio')].map(audio => ({
    seconds: audio.duration, time: audio.currentTime, paused: audio.paused,
    error: audio.error === null ? '' : audio.error.message,
}))"""
STRANGE = "<script>alert(1)</script> \"quoted\" & 'so'"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield opened
        opened.close()


SECONDS = (20.0, 30.125)
"""Long enough for a busy machine: no player comes to its end during a test."""


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings in three versions each."""
    sections = []
    for number, seconds in enumerate(SECONDS):
        samples = speech(round(seconds * SAMPLE_RATE), seed=number)
        levels = (("original", 1.0), ("decoded", 0.5), (STRANGE, 0.25))
        players = [PagePlayer(n, np.float32(x) * samples, SAMPLE_RATE, (("stored", "8"),)) for n, x in levels]
        sections.append(PageSection(f"recording {number}", tuple(players)))
    out = tmp_path_factory.mktemp("page") / "page.html"
    write_page(out, STRANGE, sections, about="a test")
    return out


class Opened:
    """A page in a window, and what the browser has to say."""

    def __init__(self, browser: Any, path: Path, size: dict[str, int], scheme: str = "light") -> None:
        phone = size["width"] < 500
        self.context = browser.new_context(
            viewport=size, color_scheme=scheme, is_mobile=phone, has_touch=phone
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.wait_for(LOADED)

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true; the page's policy forbids playwright's own way, `eval`."""
        last = time.monotonic() + 60
        while not self.page.evaluate(condition):
            assert time.monotonic() < last, condition
            self.page.wait_for_timeout(20)

    def players(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.page.evaluate(PLAYERS)
        return found

    def playing(self) -> list[int]:
        return [number for number, player in enumerate(self.players()) if not player["paused"]]

    def wait_until_playing(self, number: int, after: float = 0.0) -> float:
        """Wait until a player has come past some seconds; returns where it is."""
        audio = f"document.querySelectorAll('audio')[{number}]"
        self.wait_for(f"!{audio}.paused && {audio}.currentTime > {after}")
        return float(self.page.evaluate(f"{audio}.currentTime"))


@pytest.fixture
def desktop(browser: Any, page_path: Path) -> Iterator[Opened]:
    opened = Opened(browser, page_path, DESKTOP)
    yield opened
    assert opened.said == []
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_player_loads_with_its_length(
    browser: Any, page_path: Path, size: dict[str, int], scheme: str, tmp_path: Path
) -> None:
    opened = Opened(browser, page_path, size, scheme)
    found = opened.players()
    assert [player["seconds"] for player in found] == [
        pytest.approx(s, abs=1e-3) for s in SECONDS for _ in "123"
    ]
    assert {player["error"] for player in found} == {""}
    assert opened.said == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [page_path.as_uri()]
    assert opened.page.evaluate("document.documentElement.scrollWidth") == size["width"], "nothing is cut off"
    assert opened.page.title() == STRANGE
    light = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(251, 250, 248)") == (scheme == "light")
    shot = opened.page.screenshot(path=tmp_path / "page.png")
    assert len(shot) > 10_000
    opened.context.close()


def test_keys_switch_versions_at_the_same_moment(desktop: Opened) -> None:
    desktop.page.keyboard.press("1")
    before = desktop.wait_until_playing(0, after=0.3)
    desktop.page.keyboard.press("3")
    assert desktop.wait_until_playing(2) >= before - 0.05
    assert desktop.playing() == [2]
    assert desktop.page.inner_text("#status") == STRANGE
    desktop.page.keyboard.press(",")
    desktop.wait_until_playing(1)
    assert desktop.playing() == [1]
    desktop.page.keyboard.press("p")
    assert desktop.playing() == []
    desktop.page.uncheck("#shortcuts")
    desktop.page.keyboard.press("1")
    assert desktop.playing() == []


def test_buttons_and_spectrograms_play_from_a_place(desktop: Opened) -> None:
    desktop.page.locator("img").nth(4).click(position={"x": 5, "y": 20})
    desktop.wait_until_playing(4)
    image = desktop.page.locator("img").nth(4)
    image.click(position={"x": image.bounding_box()["width"] / 2, "y": 20})
    half = desktop.wait_until_playing(4, after=10.0)
    desktop.page.locator(".switch").nth(5).click()
    assert desktop.wait_until_playing(5) >= half - 0.05
    desktop.page.locator(".switch").nth(0).click()
    assert desktop.wait_until_playing(0) < 5.0, "another recording begins at its beginning"
    assert desktop.playing() == [0]


def test_the_keyboard_alone_reaches_every_player(desktop: Opened) -> None:
    """Tab goes to the switch of keys, and then through buttons and players in the order of the page."""
    reached = []
    for _ in range(60):
        desktop.page.keyboard.press("Tab")
        reached.append(
            desktop.page.evaluate(
                "(() => { const at = document.activeElement;"
                " return at.tagName + (at.matches('audio, .switch') ?"
                " [...document.querySelectorAll(at.tagName)].indexOf(at) : ''); })()"
            )
        )
    order = list(dict.fromkeys(name for name in reached if name != "BODY"))
    assert order[0] == "INPUT"
    assert order[1:] == [f"{tag}{n}" for n in range(6) for tag in ("BUTTON", "AUDIO")]
