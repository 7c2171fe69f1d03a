"""Many listeners at once, and a server that is killed in the middle: how many acknowledged answers are lost.

    python benchmarks/studio.py [--listeners 50] [--kills 1] [--seconds 2]

Each listener is a thread that does a whole session over loopback: state, clips, every mark, every page, a call tried
again until it is answered, as the page does. With --kills, the server gets SIGKILL that often, spread over the marks,
and is started again. At the end the database is read: every mark that was acknowledged must be there, as it was given.
"""

import argparse
import http.client
import json
import re
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import soundfile as sf

SCALES = ("consistency", "alignment", "overall")
SYSTEMS, PROMPTS = 5, 12


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


def start(folder: Path, port: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "ostinato.cli", "listen", "serve", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout and re.search("http://", process.stdout.readline()), "the server did not start"
    return process


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listeners", type=int, default=50)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a clip")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = make_test(Path(root), asked.seconds)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = start(folder, port)
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
            server = start(folder, port)
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


if __name__ == "__main__":
    main()
