"""Listening tests in a real browser, by mouse and by keyboard, on a desktop and on a phone."""

import csv
import socket
import sqlite3

import pytest

pytest.importorskip("starlette", reason="Starlette is not installed: pip install 'ostinato[studio]'")
pytest.importorskip("pyloudnorm", reason="pyloudnorm is not installed: pip install 'ostinato[studio]'")

from test_listen import SYSTEMS, listener_files, prepared, served

from ostinato.studio.listen.manifest import SCALES, read_test
from ostinato.studio.listen.results import results

pytestmark = pytest.mark.slow

EVIL = "tune {} <img src=x onerror=\"document.title='stolen'\"><script>document.title='stolen'</script>"


def consent(page, address):
    page.goto(address)
    page.get_by_role("button", name="Begin").click()
    assert "tick the box" in page.get_by_role("alert").filter(has_text="tick").inner_text()
    page.get_by_label("I have read this").check()
    page.get_by_role("button", name="Begin").click()


def clip_ids(page):
    return [name.removeprefix("name-") for name in page.locator(".clip h2").evaluate_all("h => h.map(x => x.id)")]


def pick(page, clip, scale, value):
    page.locator(f"input[name='{clip}-{scale}'][value='{value}']").check(force=True)


def heard_of(page, label):
    """Play a clip to its end."""
    page.get_by_role("button", name=f"Play {label}", exact=True).click()
    page.locator(".clip", has=page.get_by_role("heading", name=label)).locator(".player.heard").wait_for()


def settled(page):
    page.wait_for_load_state("networkidle")


def test_a_whole_session_with_a_reload_in_its_middle(page, tmp_path):
    folder = prepared(tmp_path, text=EVIL)
    of = {s.file: s for s in read_test(folder).stimuli}
    clicked = {}
    with served(folder) as (_, address):
        consent(page, address)
        for number in range(3):
            page.get_by_role("heading", name=f"Prompt {number + 1} of 3").wait_for()
            assert "<script>" in page.locator(".prompt").inner_text() and page.locator(".prompt *").count() == 0
            ids = clip_ids(page)
            files = listener_files(folder, None, {"clips": [{"id": id} for id in ids]})
            heard_of(page, "Clip A")
            for i, (clip, file) in enumerate(zip(ids, files, strict=True)):
                for j, scale in enumerate(SCALES):
                    value = 1 + (2 * i + j + number + of[file].system) % 5
                    pick(page, clip, scale, 1 + value % 5)  # and changes their mind
                    pick(page, clip, scale, value)
                    clicked[number + 1, i + 1, scale] = value
                if number == 1 and i == 0:
                    page.get_by_role("button", name="Next").click()
                    assert (
                        "6 answers are missing; the first: Clip B, Consistency" in page.locator("#missing").inner_text()
                    )
                    settled(page)
                    page.reload()
                    page.get_by_role("heading", name="Prompt 2 of 3").wait_for()
                    assert clip_ids(page) == ids
                    kept = page.locator("input:checked").evaluate_all("all => all.map(x => Number(x.value))")
                    assert kept == [clicked[2, 1, scale] for scale in SCALES]
            page.get_by_role("button", name="Finish" if number == 2 else "Next").click()
        page.get_by_role("heading", name="Thank you").wait_for()
        page.reload()
        page.get_by_role("heading", name="Thank you").wait_for()
        assert page.title() == "Thank you – Listening test"
        said = results(folder)
    rows = list(csv.DictReader((folder / "results" / "ratings.csv").open()))
    found = {
        (int(r["page"]), int(r["position"]), r["scale"]): float(r["value"]) for r in rows if r["counted"] == "True"
    }
    assert found == clicked and len(found) == 3 * len(SYSTEMS) * len(SCALES) == len(rows)
    assert all(float(r["heard"]) > 0.9 for r in rows if r["position"] == "1")
    assert said["raters"] == said["sessions"]["finished"] == 1


def test_a_keyboard_is_enough(page, tmp_path):
    folder = prepared(tmp_path, session=1)
    with served(folder) as (_, address):
        page.goto(address)
        page.get_by_role("heading", name="Listening test").wait_for()

        def tab_to(name):
            for _ in range(60):
                page.keyboard.press("Tab")
                here = page.evaluate(
                    "[document.activeElement.getAttribute('aria-label'), document.activeElement.textContent, "
                    "document.activeElement.labels?.[0]?.textContent].join(' ')"
                )
                if name in here:
                    return
            raise AssertionError(f"Tab does not reach {name}")

        tab_to("I have read this")
        page.keyboard.press("Space")
        tab_to("Begin")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Prompt 1 of 1").wait_for()
        tab_to("Play Clip A")
        page.keyboard.press("Space")
        page.locator(".player.heard").wait_for()
        for i in range(len(SYSTEMS)):
            for j in range(len(SCALES)):
                tab_to("1, poor")
                page.keyboard.press("Space")
                for _ in range(i + j):
                    page.keyboard.press("ArrowRight")
        tab_to("Finish")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Thank you").wait_for()
        tab_to("Someone else")
        page.keyboard.press("Enter")
        page.get_by_label("I have read this").check()  # the next listener consents, too
        page.get_by_role("button", name="Begin").click()
        page.get_by_role("heading", name="Prompt 1 of 1").wait_for()
        assert page.locator("input:checked").count() == 0
        assert results(folder)["sessions"] == {"begun": 2, "finished": 1, "failed": 0}
    rows = list(csv.DictReader((folder / "results" / "ratings.csv").open()))
    assert [float(r["value"]) for r in rows] == [1 + i + j for i in range(len(SYSTEMS)) for j in range(len(SCALES))]


def test_a_page_that_has_lost_its_server_says_so_and_loses_nothing(page, tmp_path):
    folder = prepared(tmp_path, session=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with served(folder, port) as (process, address):
        consent(page, address)
        page.get_by_role("heading", name="Prompt 1 of 1").wait_for()
        settled(page)
        process.kill()
        process.wait()
        for clip in clip_ids(page):
            for scale in SCALES:
                pick(page, clip, scale, 4)
        page.locator("#trouble").filter(has_text="cannot be reached").wait_for()
        page.get_by_role("button", name="Finish").click()
    with served(folder, port):
        page.get_by_role("heading", name="Thank you").wait_for()
        assert page.locator("#trouble").inner_text() == ""
        said = results(folder)
    assert all(s["mean"] == 4 and s["n"] == 1 for scores in said["scores"].values() for s in scores.values())


def test_pairs_with_every_check_on_a_phone(browser, tmp_path):
    folder = prepared(
        tmp_path, SYSTEMS[:2], mode="pairs", session=1, attention=True, headphones=True, heard_in_full=True
    )
    test = read_test(folder)
    of = {s.file: s for s in test.stimuli}
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    with served(folder) as (_, address):
        consent(page, address)
        page.get_by_role("heading", name="Sound check").wait_for()
        page.get_by_role("button", name="Go on").click()
        assert "answer tones 1" in page.locator("#missing").inner_text()
        for i, trial in enumerate(test.trials):
            page.locator(f"input[name=trial-{i}]").nth(trial.answer).check(force=True)
        page.get_by_role("button", name="Go on").tap()
        for number in range(2):
            page.get_by_role("heading", name=f"Pair {number + 1} of 2").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            small = page.locator("button:visible, .options label").evaluate_all(
                "all => all.filter(x => x.getBoundingClientRect().height < 40).map(x => x.textContent)"
            )
            assert small == []  # a finger needs room
            assert page.locator(".choice:disabled").count() == 3
            files = listener_files(folder, None, {"clips": [{"id": id} for id in clip_ids(page)]})
            beeps = [of[file].beeps is not None for file in files]
            for label in ("Clip A", "Clip B"):
                heard_of(page, label)
            page.locator(".choice:enabled").nth(2).wait_for()
            for scale in SCALES:
                value = {(True, False): 1, (False, True): 0}.get(tuple(beeps), 0.5)
                page.locator(f"input[name='pair-{scale}'][value='{value}']").check(force=True)
            page.locator(".next").tap()
        page.get_by_role("heading", name="Thank you").wait_for()
        said = results(folder, only_passed=True)
    context.close()
    assert said["raters"] == 1 and said["sessions"]["failed"] == 0
    assert all(s["overall"]["preferred"] == 0.5 for s in said["strengths"].values())


def test_answers_can_be_taken_back(page, tmp_path):
    folder = prepared(tmp_path, session=1)
    with served(folder) as (_, address):
        consent(page, address)
        page.get_by_role("heading", name="Prompt 1 of 1").wait_for()
        pick(page, clip_ids(page)[0], "overall", 3)
        page.get_by_role("button", name="Stop and delete my answers").click()
        page.get_by_role("button", name="Keep them").click()
        page.get_by_role("button", name="Stop and delete my answers").click()
        page.get_by_role("button", name="Delete my answers", exact=True).click()
        page.get_by_label("I have read this").wait_for()
    db = sqlite3.connect(folder / "ratings.db")
    assert [db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("sessions", "clips", "ratings")] == [
        0,
        0,
        0,
    ]
    db.close()
