"""The studio and the listening test, as many people would use them.

    python benchmarks/studio.py streams [--model pocket] [--at-once 1 2 4]    # how soon they hear something, and gaps
    python benchmarks/studio.py rows [--model pocket]                         # streams as rows of one batch: faster?
    python benchmarks/studio.py hour                                          # memory of server and page
    python benchmarks/studio.py listeners [--listeners 50] [--kills 1]        # how many answers are lost

streams: a warm server with as many places; each listener is a WebSocket that plays 20 s of music as the page does,
which begins once 0.35 s of it are there. For one, also the page itself in Chromium: from the click to the first sample
that its audio thread played.

rows: a frame of the language model for each stream, one after another and all in one batch; and whether the codes are
the same.

hour: the tests' small model, and an audio clock that runs faster, so that the page plays an hour of music in minutes.

listeners: each is a thread that does a whole session over loopback: state, clips, every mark, every page, a call tried
again until it is answered, as the page does. With --kills, the server gets SIGKILL that often, spread over the marks,
and is started again. At the end the database is read: every mark that was acknowledged must be there, as it was given.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
from machine import machine
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PROMPT = "A slow Bach chorale played on church organ"
AHEAD, PLAYED = 0.35, 20.0  # s that the page waits for, and that a stream of `streams` lasts
SCALES = ("consistency", "alignment", "overall")
SYSTEMS, PROMPTS = 5, 12


def start(*command: str) -> tuple[subprocess.Popen, str]:
    """A server of ours, and the address that it prints."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found, "the server did not start"
    return process, found[0]


class Player(threading.Thread):
    """One listener of the studio. first: s from the request to the first sound; begun: to `AHEAD` s of it, when the
    page begins to play; gaps, silent: how often it had to wait then, and how long in all."""

    def __init__(self, address: str, model: str, seed: int, seconds: float = PLAYED):
        super().__init__(daemon=True)
        self.address = address.replace("http", "ws") + "/v1/play"
        self.asked = {"type": "start", "prompt": PROMPT, "seed": seed, "model": model, "seconds": seconds}
        self.first = self.begun = 0.0
        self.gaps, self.silent = 0, 0.0

    def run(self) -> None:
        with connect(self.address) as messages:
            asked, rate, made, dry = time.monotonic(), 0, 0.0, 0.0  # dry: when what is there will have been played
            messages.send(json.dumps(self.asked))
            while True:
                try:
                    message = messages.recv(timeout=0.1)
                except TimeoutError:
                    message = None  # the server waits until more has been heard
                except ConnectionClosed:
                    return
                now = time.monotonic() - asked
                if isinstance(message, str):
                    said = json.loads(message)
                    rate = said.get("rate", rate)
                    if said["type"] == "end":
                        return
                elif message:
                    length = len(message) / 2 / rate
                    made, self.first = made + length, self.first or now
                    if not self.begun and made >= AHEAD:
                        self.begun, dry = now, now + made
                    elif self.begun:
                        if now > dry:
                            self.gaps, self.silent, dry = self.gaps + 1, self.silent + now - dry, now
                        dry += length
                if self.begun:
                    heard = max(0, round((made - max(0, dry - now)) * rate))
                    with suppress(ConnectionClosed):
                        messages.send(json.dumps({"type": "heard", "heard": heard}))


def streams(asked: argparse.Namespace) -> None:
    print(machine(1), asked.model, flush=True)
    for n in asked.at_once:
        command = ["-m", "ostinato.cli", "studio", "--port", "0", "--places", str(n), "--model", asked.model]
        server, address = start(*command)
        try:
            play([Player(address, asked.model, 0, 2.0)])
            players = [Player(address, asked.model, seed) for seed in range(n)]
            play(players)
            first, begun = max(p.first for p in players), max(p.begun for p in players)
            gaps, silent = sum(p.gaps for p in players), sum(p.silent for p in players)
            heard = f"{gaps} gaps, {silent:.1f} s of silence in {n * PLAYED:g} s of music"
            print(f"{n} at once: first sound after {first:.2f} s, playing after {begun:.2f} s; {heard}", flush=True)
            if n == 1:
                waits = ", ".join(f"{click(address):.2f}" for _ in range(3))
                print(f"in the page, from the click to the first sample played: {waits} s", flush=True)
        finally:
            server.terminate()
            server.wait()


def play(players: list[Player]) -> None:
    for player in players:
        player.start()
    for player in players:
        player.join()


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    flags = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    flags += ["--enable-precise-memory-info"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


def click(address: str) -> float:
    """s from the click on Play to the first sample that the audio thread played."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
        page.fill("#prompt", PROMPT)
        page.evaluate(
            """() => {
              const { on } = studio.player, { counters } = on, began = performance.now();
              on.counters = (c) => {
                counters(c);
                if (c.read) globalThis.waited ??= (performance.now() - began) / 1000 - c.read / studio.player.rate;
              };
              document.querySelector("#play").click();
            }"""
        )
        while (waited := page.evaluate("globalThis.waited ?? null")) is None:
            page.wait_for_timeout(50)
        page.click("#stop")
        return waited


def rows(asked: argparse.Namespace) -> None:
    import ostinato
    from ostinato.generation.sampling import generate_frames

    torch.set_num_threads(1)
    model, frames = ostinato.load(asked.model), 100
    print(machine(), asked.model, flush=True)

    def timed(seeds: list[int]) -> tuple[float, torch.Tensor]:
        """ms a frame, and the codes [b, K, T]."""
        made = generate_frames(model.lm, model.begin([PROMPT] * len(seeds), seeds))
        next(made)
        began = time.perf_counter()
        codes = torch.stack(list(islice(made, frames)), -1)
        return 1000 * (time.perf_counter() - began) / frames, codes

    for n in (1, 2, 4, 8):
        alone = [timed([seed]) for seed in range(n)]
        together, codes = timed(list(range(n)))
        same = sum(torch.equal(codes[i], own[0]) for i, (_, own) in enumerate(alone))
        apart = sum(ms for ms, _ in alone)
        print(
            f"{n} streams: {apart:.1f} ms a frame one after another, {together:.1f} ms in one batch, "
            f"{apart / together:.2f} times as fast; the codes of {same} of {n} are the same",
            flush=True,
        )


def serve_small(asked: argparse.Namespace) -> None:
    """The studio with the tests' small model, which is many times faster than real time."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from small import make_engine

    from ostinato.studio import web
    from ostinato.studio.app import studio

    torch.set_num_threads(1)
    web.serve(studio(make_engine()), port=0)


def hour(asked: argparse.Namespace) -> None:
    server, address = start(__file__, "serve-small")
    print(machine(1))
    print("| minutes heard | server, MiB | page's JavaScript, MiB | browser, MiB | gaps |\n" + "| --- " * 5 + "|")
    try:
        with chromium() as browser:
            page = browser.new_page()
            page.add_init_script(
                f"""const Real = AudioContext;
                globalThis.AudioContext = class extends Real {{
                  constructor(options) {{ super({{ ...options, sampleRate: {asked.times} * options.sampleRate }}); }}
                }};"""
            )
            page.goto(address)
            page.wait_for_selector("#model option", state="attached")
            page.fill("#prompt", "a tune")
            page.click("#play")
            session, began, due = page.context.new_cdp_session(page), time.monotonic(), 0
            while due <= asked.minutes:
                counters = page.evaluate("studio.player.counters")
                if counters and counters["read"] >= due * 60 * page.evaluate("studio.player.rate"):
                    session.send("HeapProfiler.collectGarbage")
                    heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
                    around = sum(own_memory(pid) for pid in below(os.getpid()) if pid != server.pid)
                    gaps = counters["underruns"]
                    print(f"| {due} | {own_memory(server.pid):.0f} | {heap:.1f} | {around:.0f} | {gaps} |", flush=True)
                    due += 5
                page.wait_for_timeout(200)
            print(f"{asked.minutes} minutes of music in {(time.monotonic() - began) / 60:.1f}")
    finally:
        server.terminate()
        server.wait()


def own_memory(pid: int) -> float:
    """MiB of a process in memory, those it shares not counted."""
    _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20


def below(pid: int) -> list[int]:
    """All processes that this one began, and those that they did."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            found += [child, *below(child)]
    return found


def make_test(root: Path, seconds: float) -> Path:
    """A test of five systems and twelve prompts, prepared by the command."""
    for j in range(SYSTEMS):
        (root / f"system{j}").mkdir()
        for i in range(PROMPTS):
            audio = 0.1 * np.random.default_rng([i, j]).standard_normal(round(seconds * 44_100))
            with sf.SoundFile(root / f"system{j}" / f"clip{i}.wav", "w", 44_100, 1) as file:
                file.comment = f"tune {i}"
                file.write(audio)
    names = [str(root / f"system{j}") for j in range(SYSTEMS)]
    command = [sys.executable, "-m", "ostinato.cli", "listen", "prepare", *names, "-o", str(root / "test")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return root / "test"


def serve_test(folder: Path, port: int) -> subprocess.Popen:
    return start("-m", "ostinato.cli", "listen", "serve", str(folder), "--port", str(port))[0]


class Listener(threading.Thread):
    """One session. acknowledged: marks by clip and scale; waits: seconds of each call that was answered at once."""

    def __init__(self, number: int, port: int):
        super().__init__(daemon=True)
        self.rng, self.port, self.cookie = np.random.default_rng(number), port, ""
        self.acknowledged: dict[tuple[str, str], int] = {}
        self.waits: list[float] = []
        self.again, self.sound = 0, 0

    def call(self, method: str, path: str, body: dict | None = None) -> bytes:
        """A call, tried until the server answers it with success."""
        while True:
            began = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                headers = {"cookie": self.cookie, "content-type": "application/json"}
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = connection.getresponse()
                found = answer.read()
                if answer.status == 200:
                    if given := answer.getheader("set-cookie"):
                        self.cookie = given.partition(";")[0]
                    self.waits.append(time.monotonic() - began)
                    return found
                assert answer.status >= 500, (answer.status, found)
            except (OSError, http.client.HTTPException):
                pass  # killed, or not there again yet
            finally:
                connection.close()
            self.again += 1
            time.sleep(0.2)

    def run(self) -> None:
        state = json.loads(self.call("POST", "/api/begin", {"consent": True}))["state"]
        while state["stage"] == "page":
            for clip in state["clips"]:
                self.sound += len(self.call("GET", f"/clips/{clip['id']}"))
                self.call("POST", "/api/heard", {"clip": clip["id"], "share": 1})
                for scale in SCALES:
                    for value in self.rng.integers(1, 6, 2).tolist():  # the second replaces the first
                        self.call("POST", "/api/rating", {"clip": clip["id"], "scale": scale, "value": value})
                        self.acknowledged[clip["id"], scale] = value
            state = json.loads(self.call("POST", "/api/page", {"page": state["page"]}))["state"]
        assert state == {"stage": "thanks"}


def listeners(asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = make_test(Path(root), asked.seconds)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = serve_test(folder, port)
        listeners = [Listener(i, port) for i in range(asked.listeners)]
        began = time.monotonic()
        for listener in listeners:
            listener.start()
        due = asked.listeners * 3 * SYSTEMS * len(SCALES)
        for kill in range(asked.kills):
            while sum(len(x.acknowledged) for x in listeners) < due * (kill + 1) / (asked.kills + 1):
                time.sleep(0.01)
            server.send_signal(signal.SIGKILL)
            server.wait()
            server = serve_test(folder, port)
        for listener in listeners:
            listener.join()
        spent = time.monotonic() - began
        server.terminate()
        server.wait()
        db = sqlite3.connect(folder / "ratings.db")
        kept = {(clip, scale): value for clip, scale, value in db.execute("SELECT clip, scale, value FROM ratings")}
        finished = db.execute("SELECT count(*) FROM sessions WHERE finished IS NOT NULL").fetchone()[0]
        db.close()
    given = {key: value for x in listeners for key, value in x.acknowledged.items()}
    lost = sum(kept.get(key) != value for key, value in given.items())
    waits = sorted(w for x in listeners for w in x.waits)
    calls, sound = len(waits), sum(x.sound for x in listeners) / 2**20
    print(
        f"{asked.listeners} listeners, {finished} finished, {asked.kills} SIGKILL, {spent:.1f} s: {len(given)} of "
        f"{due} marks acknowledged, {lost} lost; {calls / spent:.0f} calls/s ({sound:.0f} MiB of sound), answered in "
        f"{1000 * statistics.median(waits):.0f} ms (median), {1000 * waits[int(0.99 * calls)]:.0f} ms (99 %); "
        f"{sum(x.again for x in listeners)} calls tried again"
    )
    if lost or len(given) != due or finished != asked.listeners:
        raise SystemExit("answers were lost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("streams")
    one.add_argument("--model", default="pocket")
    one.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4])
    one = what.add_parser("rows")
    one.add_argument("--model", default="pocket")
    one = what.add_parser("hour")
    one.add_argument("--minutes", type=int, default=60)
    one.add_argument("--times", type=int, default=12, help="how much faster the page's audio clock runs")
    one = what.add_parser("listeners")
    one.add_argument("--listeners", type=int, default=50)
    one.add_argument("--kills", type=int, default=0)
    one.add_argument("--seconds", type=float, default=2.0, help="length of a clip")
    what.add_parser("serve-small")
    asked = parser.parse_args()
    {"streams": streams, "rows": rows, "hour": hour, "listeners": listeners, "serve-small": serve_small}[asked.what](
        asked
    )


if __name__ == "__main__":
    main()
