"""The studio in a real browser: what its audio thread counted, what the page says, what is downloaded."""

import json
import re
from io import BytesIO

import httpx
import numpy as np
import pytest
import soundfile as sf
from conftest import running
from small import make_engine, make_model

from ostinato.studio.app import studio
from ostinato.utils.audio import pcm16

pytestmark = pytest.mark.slow

MODEL = make_model()


@pytest.fixture(scope="module")
def engine():
    return make_engine()


@pytest.fixture
def open_page(page, engine):
    with running(studio(engine)) as address:
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
        # What the page was sent, piece by piece, put where it belongs.
        page.evaluate(
            """() => {
              const { on } = studio.player, { pcm, turn, pace } = on;
              globalThis.got = [];
              globalThis.slowest = Infinity;
              on.pace = (message) => { slowest = Math.min(slowest, message.speed); pace(message); };
              on.pcm = (samples) => { got.push(...samples); pcm(samples); };
              on.turn = (message) => { got.length = message.from; turn(message); };
            }"""
        )
        yield page


@pytest.fixture(autouse=True)
def keep_threads(engine, monkeypatch):
    monkeypatch.setattr(engine, "close", lambda: None)  # one engine for several servers, one after another


def until(page, expression):
    """Ask until it is true. (Playwright's own way evaluates strings in the page, which the page forbids.)"""
    for _ in range(4000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}; {page.inner_text('#status')}; {page.inner_text('#notice')}")


def ask(page, prompt, seconds=None, seed=3):
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    if seconds:
        page.evaluate(f"document.querySelector('#seconds').append(new Option('{seconds}', '{seconds}', true, true))")
    page.click("#play")


def heard(page, seconds):
    until(page, f"studio.player.counters?.read >= {round(seconds * 8000)}")
    return page.evaluate("studio.player.counters")


def samples(page, n=None):
    return np.array(page.evaluate(f"got.slice(0, {n or 'undefined'})"))


def same(found, prompt, seed=3, more=0.5):
    """Those of `generate`, to the last bit of 16: a clip is decoded at once, a stream in pieces.
    more: seconds that are still to come; the last frames of a clip hear that nothing does."""
    wanted = np.frombuffer(pcm16(MODEL.generate(prompt, len(found) / 8000 + more, seed=seed).audio), "<i2")
    return np.abs(found - wanted[: len(found)]).max() <= 1


def test_a_first_clip(open_page):
    page = open_page
    page.click("#examples button >> nth=0")
    prompt = page.input_value("#prompt")
    ask(page, prompt, seconds=1)
    until(page, "document.querySelector('#status').textContent === 'At its end.'")
    assert samples(page).shape == (8000,) and same(samples(page), prompt, more=0)
    assert page.inner_text("#takes .words") == prompt
    for suffix in ("WAV", "FLAC"):
        with page.expect_download() as download:
            page.click(f"#takes button:text-is('{suffix}')")
        assert download.value.suggested_filename.endswith(suffix.lower())
        data = download.value.path().read_bytes()
        page.set_input_files("#file", {"name": f"x.{suffix.lower()}", "mimeType": "audio/x", "buffer": data})
        page.click("#drop button:text-is('Make it again')")
        until(page, "document.querySelector('#status').textContent === 'At its end.'")
        with page.expect_download() as again:
            page.click(f"#takes button:text-is('{suffix}') >> nth=0")
        assert again.value.path().read_bytes() == data
    page.reload()
    assert page.locator("#takes li").count() == 3


def test_a_minute_without_a_gap(open_page, engine):
    page = open_page
    ask(page, "a tune")
    first = heard(page, 5)  # from here on, 8 s are there before they are heard
    counters = heard(page, 60)
    page.click("#stop")
    until(page, "document.querySelector('#status').textContent === 'Stopped.'")
    assert counters["dropped"] == 0 and counters["level"] > 0 and first["level"] > 0
    gaps = counters["underruns"] - first["underruns"]
    assert not gaps or page.evaluate("slowest") < 1.5  # only where so much else goes on that music is made too slowly
    assert counters["underruns"] or counters["silent"] == 0
    found = samples(page)
    assert len(found) >= counters["end"] >= counters["read"] >= 60 * 8000
    assert same(found[: 60 * 8000], "a tune")
    minutes, seconds = divmod(len(found) // 8000, 60)
    assert page.inner_text("#takes .about") == f"{minutes}:{seconds:02}, seed 3, small"


def test_steering_and_again_from_here(open_page):
    page = open_page
    ask(page, "a tune")
    heard(page, 1)
    page.fill("#prompt", "zzz zzz")
    page.click("#steer")
    until(page, "document.querySelector('#status').textContent === 'zzz zzz'")
    page.click("#fork")
    seed = int(page.input_value("#seed"))
    until(page, "JSON.parse(localStorage['ostinato-takes'] ?? '[]') && studio.player.counters.read > 48000")
    counters = page.evaluate("studio.player.counters")
    assert counters["dropped"] == 0
    page.click("#stop")
    take = json.loads(page.evaluate("localStorage['ostinato-takes']"))[0]
    turns = take["recipe"]["turns"]
    assert [turn["prompt"] for turn in turns] == ["a tune", "zzz zzz", "zzz zzz"] and turns[2]["seed"] == seed
    found = samples(page, take["recipe"]["samples"])
    again = httpx.post(f"{page.url}v1/audio/generations", json={"recipe": take["recipe"]}, timeout=120).content
    assert np.array_equal(sf.read(BytesIO(again), dtype="int16")[0], found)
    assert not same(found, "a tune")


def test_a_pause_holds_the_generation(open_page, engine):
    page = open_page
    ask(page, "a tune")
    heard(page, 1)
    page.click("#pause")
    until(page, "document.querySelector('#status').textContent.startsWith('Paused')")
    at = page.evaluate("studio.player.counters.read")
    page.wait_for_timeout(1500)
    made = page.evaluate("got.length")
    assert page.evaluate("studio.player.counters.read") - at < 1600
    page.wait_for_timeout(500)
    assert page.evaluate("got.length") == made <= at + 8000 * 10
    page.click("#pause")
    counters = heard(page, at / 8000 + 1)
    assert counters["underruns"] == 0
    assert same(samples(page), "a tune")


def test_what_is_wrong_is_said_while_the_music_goes_on(open_page):
    page = open_page
    ask(page, "a tune")
    heard(page, 0.5)
    page.fill("#prompt", "  ")
    page.click("#steer")
    page.evaluate("document.querySelector('#temperature').value = 9")  # behind "More"
    page.fill("#prompt", "another")
    page.click("#play")
    until(page, "document.querySelector('details').open")
    heard(page, page.evaluate("studio.player.counters.read") / 8000 + 1)
    assert page.inner_text("#notice") == "" and page.inner_text("#status") == "a tune"


def test_two_tabs_share_the_list_and_a_place_in_the_queue_can_be_left(open_page, engine):
    page = open_page
    ask(page, "a tune")
    heard(page, 0.5)
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector("#model option", state="attached")
    ask(other, "another")
    until(other, "document.querySelector('#status').textContent === 'You are next.'")
    other.click("#stop")
    assert other.inner_text("#status") == "Stopped."
    page.click("#stop")
    until(other, "document.querySelectorAll('#takes li').length === 1")
    other.evaluate("for (const _ of [1, 2]) document.querySelector('#play').click()")  # the first is given up
    heard(other, 0.2)
    other.click("#stop")
    until(page, "document.querySelectorAll('#takes li').length >= 2")
    assert "a tune" in page.inner_text("#takes")
    other.close()


def test_script_in_a_prompt_is_text(open_page):
    page = open_page
    evil = '<img src=x onerror="window.evil=1"><script>window.evil=1</script>'
    ask(page, evil, seconds=0.5)
    until(page, "document.querySelector('#status').textContent === 'At its end.'")
    assert page.inner_text("#takes .words") == evil
    assert page.evaluate("window.evil") is None and page.locator("#takes img").count() == 0
    with page.expect_download() as download:
        page.click("#takes button:text-is('WAV')")
    assert re.fullmatch(r"[a-z0-9-]+\.wav", download.value.suggested_filename)


def test_by_keyboard_alone(open_page):
    page = open_page
    page.focus("#prompt")
    page.keyboard.type("a tune")
    while page.evaluate("document.activeElement.id") != "model":
        page.keyboard.press("Tab")
    for _ in ("more", "drop", "play"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    heard(page, 0.2)


def test_two_takes_side_by_side(open_page):
    page = open_page
    for seed in (1, 2):
        ask(page, "a tune", seconds=2, seed=seed)
        until(page, "document.querySelector('#status').textContent === 'At its end.'")
    page.click("#takes button:text-is('Compare') >> nth=0")
    page.click("#takes button:text-is('Compare') >> nth=0")
    page.wait_for_selector("#compare:not([hidden])")
    page.click("#both")
    until(page, "document.querySelector('#compare-status').textContent.startsWith('Playing A')")
    page.click("#switch")
    until(page, "document.querySelector('#compare-status').textContent.startsWith('Playing B')")


def test_a_page_that_has_lost_its_server_says_so(page, engine):
    with running(studio(engine)) as address:
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
        ask(page, "a tune")
        heard(page, 1)
    page.wait_for_selector("#notice:not([hidden])")
    assert "The server is gone" in page.inner_text("#notice")
    page.click("#takes button:text-is('WAV')")
    until(page, "document.querySelector('#notice').textContent.includes('not there to download')")


def test_a_recipe_that_is_too_large_is_told(open_page):
    page = open_page
    page.evaluate("studio.player.play({ recipe: 'x'.repeat(70000) })")
    page.wait_for_selector("#notice:not([hidden])")
    assert "64 KiB" in page.inner_text("#notice")


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_is_cut_off_on_a_phone(open_page, width):
    page = open_page
    page.set_viewport_size({"width": width, "height": 844})
    page.evaluate("document.querySelector('#model').append(new Option('a-long-name-of-a-model', 'x', true, true))")
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = """all => all.filter((select) => {
      const style = getComputedStyle(select), text = document.createElement("canvas").getContext("2d");
      text.font = style.font;
      const room = select.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 20;
      return [...select.options].some((option) => text.measureText(option.text).width > room);
    }).map((select) => select.id)"""
    assert page.locator("select:visible").evaluate_all(cut) == []  # 20 pixels are the arrow


def test_the_page_asks_nobody_else(page, engine):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with running(studio(engine)) as address:
        for path in ("/", "/docs.html"):
            page.goto(address + path)
            page.wait_for_load_state("networkidle")
        assert asked and all(url.startswith(address) for url in asked)
        assert "POST /v1/audio/generations" in page.inner_text("main")
