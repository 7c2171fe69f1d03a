"""How fast a model plays in PyTorch, in ONNX Runtime and in a browser, one after another in one run.

    python benchmarks/runtimes.py                      # pocket, 10 s of music, one thread each
    python benchmarks/runtimes.py --threads 2 --rows "PyTorch; ONNX Runtime"

Each row is a process of its own. load: from nothing to a model that is ready, the start of the interpreter and of the
browser included. Real-time factor: seconds of computing for a second of music, loading not counted; in the browser as
the page itself counts it, in Chromium without a window. Processor: seconds of a core for a second of music, of the
process and all that it started (Linux), which other work on the machine changes less.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from machine import machine

PROMPT = "A slow Bach chorale played on church organ"
ROWS = ("PyTorch", "ONNX Runtime", "browser")


def mark() -> None:
    """The processor time so far, a line before and one after what is measured."""
    print(processor_time(), flush=True)


def in_torch(model: str, folder: Path, seconds: float, seed: int) -> float:
    import ostinato

    loaded = ostinato.load(model)
    mark()
    began = time.monotonic()
    loaded.generate(PROMPT, seconds, seed)
    spent = time.monotonic() - began
    mark()
    return spent


def in_onnx(model: str, folder: Path, seconds: float, seed: int) -> float:
    from ostinato.export.runtime import load_exported

    loaded = load_exported(folder / "graphs")
    mark()
    began = time.monotonic()
    for _ in loaded.play(PROMPT, round(seconds * loaded.frame_rate), seed):
        pass
    spent = time.monotonic() - began
    mark()
    return spent


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def in_browser(model: str, folder: Path, seconds: float, seed: int) -> float:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from browser import CHROMIUM, FLAGS
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder / "page"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split()).new_page()
        page.set_default_timeout(300_000)
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("#play:enabled")
        mark()
        page.fill("#prompt", PROMPT)
        page.fill("#seed", str(seed))
        page.evaluate(f"document.querySelector('#seconds').append(new Option('{seconds}', '{seconds}', true, true))")
        page.click("#play")
        while not page.evaluate("globalThis.done"):
            page.wait_for_timeout(500)
        mark()
        return page.evaluate("globalThis.done.spent")


def processor_time() -> float:
    """Seconds of a core that this process and all that came of it have had."""
    ticks, todo = 0, [os.getpid()]
    while todo:
        process = Path(f"/proc/{todo.pop()}")
        try:
            ticks += sum(map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13]))
            todo += [int(pid) for children in process.glob("task/*/children") for pid in children.read_text().split()]
        except OSError:  # it has ended
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


JOBS = dict(zip(ROWS, (in_torch, in_onnx, in_browser), strict=True))


def export(model: str, folder: Path) -> None:
    import ostinato
    from ostinato.export.web import export_page
    from ostinato.export.write import export_model

    loaded = ostinato.load(model)
    export_model(loaded, model, folder / "graphs")
    export_page(loaded, model, folder / "page")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", default="; ".join(ROWS), help="only these, separated by ;")
    parser.add_argument("--folder", type=Path, help="where graphs/ and page/ are, or come to be")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        return print(JOBS[args.job](args.model, args.folder, args.seconds, args.seed))
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    print(machine(args.threads), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "page" / "index.html").is_file():
            export(args.model, folder)
        for part in ("graphs", "page"):
            size = sum(path.stat().st_size for path in (folder / part).rglob("*") if path.is_file())
            print(f"{part}: {size / 1e6:.1f} MB", flush=True)
        print("\n| runtime | load, s | real-time factor | processor |\n| --- | --- | --- | --- |")
        for row in (name.strip() for name in args.rows.split(";")):
            loads, factors, shares = [], [], []
            for seed in range(args.rounds):
                command = [sys.executable, __file__, "--job", row, "--model", args.model, "--folder", str(folder)]
                command += ["--seconds", str(args.seconds), "--seed", str(seed)]
                began = time.monotonic()
                with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                    assert process.stdout
                    before = float(process.stdout.readline())
                    loads.append(time.monotonic() - began)
                    after, spent = map(float, process.stdout.read().split())
                    factors.append(spent / args.seconds)
                    shares.append((after - before) / args.seconds)
            several = [" ".join(f"{value:.2f}" for value in values) for values in (factors, shares)]
            print(f"| {row} | {min(loads):.1f} | {' | '.join(several)} |", flush=True)


if __name__ == "__main__":
    main()
