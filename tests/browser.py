"""A real browser for the tests of pages."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync "
    "--disable-component-update --autoplay-policy=no-user-gesture-required"
)


@pytest.fixture(scope="session")
def browser():
    """Chromium, new and empty. Skips where none is installed, or nothing to drive it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # Launched with a profile of its own in a temporary folder, which goes with it.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser, request):
    """A page of a fresh context; what it logged as an error fails the test, unless `page.expected` says it may."""
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []
