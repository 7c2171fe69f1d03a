"""An OpenAI-compatible server on loopback that behaves as bad as real ones do, by a script: each request takes the next
line of it, and once that is at its end all are answered well. It keeps what it was asked."""

import json
import threading
import time
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, script: Iterable[str], answer, slow: float):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.answer, self.slow = list(script), answer, slow
        self.asked: list[dict] = []
        self.gave: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            kind = self.server.script.pop(0) if self.server.script else "well"
            self.server.gave.append(kind)
        with suppress(BrokenPipeError):  # the client had enough of waiting
            self.give(kind, body)

    def give(self, kind: str, body: dict) -> None:
        good = self.server.answer(body)
        if kind == "timeout":
            time.sleep(self.server.slow)
            self.reply(200, good)
        elif kind == "hangs up":
            self.connection.close()
        elif kind == "rate":
            self.reply(429, error="too many requests", headers={"Retry-After": "0.01"})
        elif kind in ("500", "503", "401", "404", "400"):
            self.reply(int(kind), error=f"says {kind}")
        elif kind == "not json":
            self.raw(200, b"<html>bad gateway</html>", "application/json")
        elif kind == "broken":
            self.reply(200, good[: len(good) // 2])
        elif kind == "prose":
            self.reply(200, "I think this is a nice piece of music.")
        elif kind == "refuses":
            self.reply(200, None, refusal="I cannot help with that.")
        elif kind == "empty":
            nothing = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}
            self.raw(200, json.dumps(nothing).encode())
        else:
            self.reply(200, good)

    def reply(self, status: int, text: str | None = None, error: str = "", refusal: str | None = None, headers=None):
        message = {"role": "assistant", "content": text, "refusal": refusal}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        good = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        self.raw(status, json.dumps({"error": {"message": error}} if error else good).encode(), headers=headers)

    def raw(self, status: int, body: bytes, kind: str = "application/json", headers=None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def merged(body: dict) -> str:
    """An answer that tells which captions it is of."""
    prompt = body["messages"][0]["content"]
    first = next(line for line in prompt.splitlines() if line.startswith("- "))
    return json.dumps({"caption": f"one description of {first[2:]}"})


@contextmanager
def serving(script: Iterable[str] = (), answer=merged, slow: float = 1.0):
    server = Server(script, answer, slow)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
