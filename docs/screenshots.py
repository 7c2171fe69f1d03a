"""Pictures of the studio for the docs: `python docs/screenshots.py` plays the model that ships in Chromium, on its way
from one sentence to another. Nothing else should run, or the page says that the machine is too slow."""

import sys
from pathlib import Path

from playwright.sync_api import Page

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "benchmarks"))
from studio import chromium, start  # noqa: E402

SIZES = {"studio-desktop": (900, 844), "studio-phone": (390, 844)}
FIRST, SECOND = "A slow Bach chorale played on church organ", "A quiet string quartet, slow and warm"


def heard(page: Page, seconds: float) -> None:
    page.wait_for_function(
        "(s) => studio.player.counters?.read >= s * studio.player.rate", arg=seconds, timeout=120_000
    )


def main() -> None:
    server, address = start("-m", "ostinato.cli", "studio", "--port", "0")
    try:
        with chromium() as browser:
            for name, (width, height) in SIZES.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(address)
                page.wait_for_selector("#model option", state="attached")
                page.fill("#prompt", FIRST)
                page.click("#play")
                heard(page, 12)
                page.fill("#prompt", SECOND)
                page.click("#steer")
                heard(page, 22)
                page.screenshot(path=DOCS / f"{name}.png", full_page=True)
                page.click("#stop")
                page.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
