"""The page, in a real browser with a microphone that plays the sample, against a real server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio
import soundfile
from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Page,
    Playwright,
    WebSocketRoute,
    async_playwright,
    expect,
)

from tests.support.server import ServerProcess

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

RATE = 16_000
STREAM = re.compile(r"/v1/sessions/[^/]+/stream")
ABLE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
DENYING = ("--use-fake-device-for-media-stream", "--deny-permission-prompts")

UNNAMED_BUTTONS = "[...document.querySelectorAll('button')].filter((b) => !b.textContent.trim()).length"

TAKE_OVER = """async ([address, token]) => {
  const stream = new URL(address);
  const response = await fetch(stream.pathname.replace(/stream$/, "tickets"), {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ role: "speaker" }),
  });
  const { ticket } = await response.json();
  window.other = new WebSocket(stream.origin + stream.pathname, ["kikitori.v1", `ticket.${ticket}`]);
}"""

Audio = npt.NDArray[np.int16]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def playwright(need: Callable[[str], Path]) -> AsyncIterator[Playwright]:
    need("chromium")
    async with async_playwright() as started:
        yield started


@asynccontextmanager
async def _launched(playwright: Playwright, chromium: Path, *args: str) -> AsyncIterator[Browser]:
    # Root, which containers run as, has no sandbox in Chromium.
    browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *args])
    yield browser
    await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(
    playwright: Playwright, need: Callable[[str], Path], sample_wav: Path
) -> AsyncIterator[Browser]:
    voice = f"--use-file-for-fake-audio-capture={sample_wav}%noloop"
    async with _launched(playwright, need("chromium"), *ABLE, voice) as browser:
        yield browser


@asynccontextmanager
async def _page(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A page in a context of its own; it must end without an error of its own."""
    context = await browser.new_context(locale="en-US", **options)
    page = await context.new_page()
    faults: list[str] = []

    def note(said: ConsoleMessage) -> None:
        if "Content Security Policy" in said.text:
            faults.append(said.text)

    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", note)
    yield page
    await context.close()
    assert faults == []


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    async with _page(browser) as page:
        yield page


async def _sign_in(page: Page, server: ServerProcess) -> None:
    await page.goto(f"{server.url}/#token={await server.token()}")
    await expect(page.locator("#state")).to_have_text("Ready.")


async def _record(page: Page) -> None:
    await page.get_by_role("button", name="Start recording").click()
    await expect(page.locator("#state")).to_have_text(re.compile(r"^Recording\."))


async def _speak_until(page: Page, seconds: int) -> None:
    await expect(page.locator("#length")).to_have_text(
        re.compile(rf"^0:{seconds:02}"), timeout=(seconds + 20) * 1000
    )


async def _stop(page: Page) -> None:
    await page.get_by_role("button", name="Stop", exact=True).click()
    await expect(page.locator("#state")).to_have_text("Stored.", timeout=30_000)


async def _download(page: Page, label: str, folder: Path) -> Path:
    async with page.expect_download() as downloading:
        await page.locator("#result").get_by_role("button", name=label).click()
    download = await downloading.value
    path = folder / download.suggested_filename
    await download.save_as(path)
    return path


def _lag(recorded: Audio, played: Audio) -> int:
    """By how many samples ``played`` comes later in the sample; the two must be the same sound."""
    size = 1 << 22
    spectrum = np.fft.rfft(recorded, size) * np.conj(np.fft.rfft(played, size))
    lag = int(np.argmax(np.fft.irfft(spectrum, size)))
    lag = lag - size if lag > size // 2 else lag
    heard = recorded[max(lag, 0) :]
    source = played[max(-lag, 0) :][: len(heard)]
    assert np.corrcoef(heard[: len(source)], source)[0, 1] > 0.95
    return lag


def _voice(flac: Path, sample_wav: Path) -> tuple[Audio, Audio]:
    recorded, rate = soundfile.read(flac, dtype="int16")
    played, _ = soundfile.read(sample_wav, dtype="int16")
    assert rate == RATE
    return recorded, played


def _unbroken(recorded: Audio, played: Audio) -> None:
    """The recording's end lies exactly as far from its beginning as in the sample."""
    first, last = recorded[: 2 * RATE], recorded[-2 * RATE :]
    offset = len(recorded) - len(last)
    around = played[offset - RATE : offset + 4 * RATE]
    assert _lag(first, played[: 2 * RATE]) == _lag(last, around) + RATE


async def test_a_consultation_is_captioned_stored_and_downloaded(
    page: Page, transcriber: ServerProcess, sample_wav: Path, tmp_path: Path
) -> None:
    await _sign_in(page, transcriber)
    await _record(page)
    await expect(page.locator("#finals li").first).to_be_visible(timeout=40_000)
    await _speak_until(page, 14)
    await _stop(page)
    await expect(page.locator("#result-summary")).to_have_text(
        re.compile(r"^1\d s of audio · 100 % archived · \d+ captions?$")
    )
    await expect(page.locator("#unsafe")).to_have_text("0 s")
    await expect(page.locator("#partials li")).to_have_count(0)
    words = " ".join(await page.locator("#finals li p").all_inner_texts()).split()
    assert len(words) >= 10
    assert await page.locator("#finals li p").first.get_attribute("lang") == "en-US"
    text = (await _download(page, "Text", tmp_path)).read_text()
    assert len(set(words) & set(text.split())) >= 5
    assert (await _download(page, "Subtitles", tmp_path)).read_text().startswith("WEBVTT")
    recorded, played = _voice(await _download(page, "Audio", tmp_path), sample_wav)
    _lag(recorded, played[: len(recorded)])
    await expect(page.locator("#sessions li").first.locator(".badge")).to_have_text("Stored")


@pytest.mark.long
async def test_a_cut_and_a_silent_connection_lose_and_double_nothing(
    page: Page, recorder: ServerProcess, sample_wav: Path, tmp_path: Path
) -> None:
    relays: list[tuple[WebSocketRoute, WebSocketRoute]] = []

    def relay(route: WebSocketRoute) -> None:
        relays.append((route, route.connect_to_server()))

    await page.route_web_socket(STREAM, relay)
    await _sign_in(page, recorder)
    await _record(page)
    await _speak_until(page, 3)
    to_page, to_server = relays[0]
    await to_server.close()
    await to_page.close(code=1012)
    await _speak_until(page, 6)
    assert len(relays) == 2
    for end in relays[1]:
        end.on_message(lambda _: None)
    await _speak_until(page, 16)
    assert len(relays) == 3
    await expect(page.locator("#state")).to_have_text(re.compile(r"^Recording\."))
    await _stop(page)
    _unbroken(*_voice(await _download(page, "Audio", tmp_path), sample_wav))


@pytest.mark.long
async def test_a_killed_server_that_comes_back_has_it_all(
    page: Page, server_factory: Callable[..., ServerProcess], sample_wav: Path, tmp_path: Path
) -> None:
    async with server_factory(engine="null") as server:
        await _sign_in(page, server)
        await _record(page)
        await _speak_until(page, 7)
        await server.kill()
        await expect(page.locator("#state")).to_have_text(re.compile("^Reconnecting"), timeout=10_000)
        await server.start()
        await expect(page.locator("#state")).to_have_text(re.compile(r"^Recording\."), timeout=20_000)
        await _speak_until(page, 16)
        await _stop(page)
        _unbroken(*_voice(await _download(page, "Audio", tmp_path), sample_wav))


async def test_another_device_that_takes_over_is_told(page: Page, recorder: ServerProcess) -> None:
    await _sign_in(page, recorder)
    async with page.expect_websocket() as opened:
        await _record(page)
    await page.evaluate(TAKE_OVER, [(await opened.value).url, await recorder.token()])
    await expect(page.locator("#state")).to_have_text(
        re.compile("^Another device has taken over this session.")
    )
    await expect(page.get_by_role("button", name="Start recording")).to_be_enabled()


async def test_the_token_leaves_the_address_bar_and_stays_for_the_tab(
    browser: Browser, page: Page, recorder: ServerProcess
) -> None:
    await _sign_in(page, recorder)
    assert page.url == f"{recorder.url}/"
    await expect(page.locator("#clinic")).to_have_text("demo")
    await page.reload()
    await expect(page.locator("#state")).to_have_text("Ready.")
    async with _page(browser) as other:
        await other.goto(recorder.url)
        await expect(other.locator("#state")).to_have_text("Sign in to begin.")


async def test_a_token_can_be_pasted_and_a_bad_one_is_refused_in_words(
    page: Page, recorder: ServerProcess
) -> None:
    await page.goto(f"{recorder.url}/#token=not.a.token")
    await expect(page.locator("#sign-in-why")).to_contain_text("does not accept this token")
    await expect(page.get_by_role("button", name="Start recording")).to_be_disabled()
    await page.get_by_label("Token").fill(await recorder.token())
    await page.get_by_role("button", name="Use this token").click()
    await expect(page.get_by_role("button", name="Start recording")).to_be_enabled()
    await expect(page.locator("#sign-in")).to_be_hidden()


async def test_a_denied_microphone_is_explained(
    playwright: Playwright, need: Callable[[str], Path], recorder: ServerProcess
) -> None:
    async with _launched(playwright, need("chromium"), *DENYING) as browser, _page(browser) as page:
        await _sign_in(page, recorder)
        await page.get_by_role("button", name="Start recording").click()
        await expect(page.locator("#state")).to_contain_text("may not use the microphone")
        await expect(page.get_by_role("button", name="Start recording")).to_be_enabled()


async def test_leaving_while_something_is_not_stored_asks_first(page: Page, recorder: ServerProcess) -> None:
    await _sign_in(page, recorder)
    asked: list[str] = []

    async def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        await dialog.dismiss()

    page.on("dialog", stay)
    await _record(page)
    await page.close(run_before_unload=True)
    await _stop(page)
    assert asked == ["beforeunload"]


async def test_it_works_with_the_keyboard_alone(page: Page, recorder: ServerProcess) -> None:
    await _sign_in(page, recorder)
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Start recording")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#state")).to_have_text(re.compile(r"^Recording\."))
    await expect(page.get_by_role("button", name="Stop", exact=True)).to_be_focused()
    await page.keyboard.press("Space")
    await expect(page.locator("#state")).to_have_text("Stored.", timeout=30_000)
    await expect(page.get_by_role("button", name="Start recording")).to_be_focused()


async def test_what_a_screen_reader_needs_is_there(page: Page, recorder: ServerProcess) -> None:
    await _sign_in(page, recorder)
    assert await page.locator("html").get_attribute("lang") == "en"
    assert await page.locator("#finals").get_attribute("aria-live") == "polite"
    assert await page.locator("[aria-live] #partials, #partials[aria-live]").count() == 0
    await expect(page.get_by_role("status")).to_have_text("Ready.")
    await expect(page.get_by_role("meter", name="Microphone level")).to_be_visible()
    await expect(page.get_by_label("Language")).to_be_visible()
    assert await page.evaluate(UNNAMED_BUTTONS) == 0


@pytest.mark.parametrize("width", [320, 375])
async def test_a_phone_shows_it_without_scrolling_sideways(
    browser: Browser, recorder: ServerProcess, width: int
) -> None:
    async with _page(browser, viewport={"width": width, "height": 640}) as page:
        await _sign_in(page, recorder)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        button = await page.get_by_role("button", name="Start recording").bounding_box()
        assert button is not None
        assert button["y"] + button["height"] <= 640
