"""The studio's server: what it plays is what `generate` makes; what it refuses, it refuses in words."""

import asyncio
import json
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

import httpx
import numpy as np
import pytest
import soundfile as sf
from conftest import running
from small import make_engine, make_model
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from ostinato.studio import web
from ostinato.studio.app import studio
from ostinato.studio.engine import Places
from ostinato.utils.audio import pcm16

MODEL = make_model()
ASK = {"prompt": "a tune", "seconds": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def engine():
    return make_engine(upload=200_000, waiting=2)


@pytest.fixture(scope="module")
def server(engine):
    with running(studio(engine, names=["studio.example"])) as address:
        yield address


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server, timeout=60) as client:
        yield client


@contextmanager
def play(server, headers=None, **asked):
    with connect(server.replace("http", "ws") + "/v1/play", additional_headers=headers) as socket:
        socket.send(json.dumps({"type": "start"} | asked))
        yield socket


def receive(socket, until=None):
    """Messages and samples until a message of this type, or the end."""
    messages, pcm = [], b""
    try:
        while True:
            got = socket.recv(timeout=60)
            if isinstance(got, bytes):
                pcm += got
                with suppress(ConnectionClosed):  # the server may have said its last already
                    socket.send(json.dumps({"type": "heard", "heard": len(pcm) // 2}))
                continue
            messages.append(json.loads(got))
            if messages[-1]["type"] == until:
                break
    except ConnectionClosed:
        pass
    return messages, pcm


def refused(answer, status, words):
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert "Traceback" not in answer.text and "/" + "home" not in answer.text


def test_a_clip_is_what_generate_makes_and_can_be_made_again(client):
    wanted = pcm16(MODEL.generate("a tune", 1.0, seed=3).audio)
    for suffix in ("wav", "flac"):
        made = client.post("/v1/audio/generations", json=ASK | {"format": suffix})
        assert made.status_code == 200 and f"a-tune.{suffix}" in made.headers["content-disposition"]
        with open_bytes(made.content) as file:
            found = file.read(dtype="int16")
        assert np.abs(found.astype(int) - np.frombuffer(wanted, "<i2")).max() <= 1  # pieces, and all at once
        read = client.post("/v1/audio/read", params={"name": f"x.{suffix}"}, content=made.content).json()
        assert read["title"] == "a tune"
        again = client.post("/v1/audio/generations", json={"recipe": read["recipe"], "format": suffix})
        assert again.content == made.content


def open_bytes(data):
    import io

    return sf.SoundFile(io.BytesIO(data))


def test_a_stream_is_a_wav_with_the_same_samples(client):
    whole = client.post("/v1/audio/generations", json=ASK)
    streamed = client.get("/v1/audio/stream", params=ASK)
    assert streamed.content[:4] == b"RIFF" and struct.unpack("<I", streamed.content[40:44])[0] == 2**32 - 1
    with open_bytes(whole.content) as file:
        assert streamed.content[44:] == file.read(dtype="int16").astype("<i2").tobytes()
    assert client.post("/v1/audio/stream", json=ASK).content == streamed.content


def test_one_goes_on_from_a_file(client):
    first = client.post("/v1/audio/generations", json=ASK)
    read = client.post("/v1/audio/read?name=mine.wav", content=first.content).json()
    longer = client.post("/v1/audio/stream", json=ASK | {"before": read["before"], "seed": 9}).content[44:]
    assert len(longer) == 2 * 2 * 8000


@pytest.mark.slow
def test_a_socket_plays_steers_and_stops(server, engine):
    with play(server, prompt="a tune", seed=3) as socket:
        begin, pcm = socket.recv(), b""
        about = json.loads(begin)
        assert about["type"] == "begin" and about["rate"] == 8000
        while len(pcm) < 2 * 16000:
            got = socket.recv(timeout=60)
            pcm += got if isinstance(got, bytes) else b""
        socket.send(json.dumps({"type": "steer", "prompt": "louder", "heard": 8000}))
        while isinstance(got := socket.recv(timeout=60), bytes) or json.loads(got)["type"] != "turn":
            pcm += got if isinstance(got, bytes) else b""
        turn = json.loads(got)
        assert turn["prompt"] == "louder" and turn["sample"] > 8000 and turn["from"] <= len(pcm) // 2
        pcm = pcm[: 2 * turn["from"]]
        for _ in range(20):
            got = socket.recv(timeout=60)
            pcm += got if isinstance(got, bytes) else b""
        name = about["take"]
    saved = httpx.get(f"{server}/v1/audio/takes/{name}.wav")
    with open_bytes(saved.content) as file:
        assert file.read(dtype="int16").astype("<i2").tobytes()[: len(pcm)] == pcm
    recipe = httpx.post(f"{server}/v1/audio/read?name=x.wav", content=saved.content).json()["recipe"]
    assert [turn["prompt"] for turn in recipe["turns"]] == ["a tune", "louder"]
    again = httpx.post(f"{server}/v1/audio/generations", json={"recipe": recipe}, timeout=60)
    assert again.content == saved.content


@pytest.mark.slow
def test_no_more_is_made_than_is_heard(server, engine):
    """A listener who hears nothing is sent the credit and no more; what was made before a pause goes on after it."""
    with play(server, prompt="a tune", seed=3) as socket:
        pcm, most = b"", 2 * 8000 * (8 + 1)
        with pytest.raises(TimeoutError):
            while True:
                got = socket.recv(timeout=1.5)
                pcm += got if isinstance(got, bytes) else b""
        assert 2 * 8000 * 8 <= len(pcm) <= most
        socket.send('{"type": "pause"}')
        socket.send(json.dumps({"type": "heard", "heard": 16000}))
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.5)
        socket.send('{"type": "resume"}')
        while len(pcm) < most:
            got = socket.recv(timeout=60)
            pcm += got if isinstance(got, bytes) else b""
    wanted = pcm16(MODEL.generate("a tune", 12.0, seed=3).audio)
    found, wanted = (np.frombuffer(x[: len(pcm)], "<i2").astype(int) for x in (pcm, wanted))
    assert np.abs(found - wanted).max() <= 1


def test_who_comes_later_waits_and_who_leaves_makes_room(server, engine):
    with play(server, prompt="one") as first:
        assert json.loads(first.recv())["type"] == "begin"
        with play(server, prompt="two") as second:
            assert json.loads(second.recv(timeout=20)) == {"type": "queue", "place": 1}
            with play(server, prompt="three") as third:
                assert json.loads(third.recv(timeout=20)) == {"type": "queue", "place": 2}
                with play(server, prompt="four") as fourth:
                    messages, _ = receive(fourth)
                    assert "are waiting already" in messages[-1]["error"]
                refused(httpx.get(f"{server}/v1/audio/stream?prompt=x"), 503, "are waiting already")
                second.close()
                assert json.loads(third.recv(timeout=20)) == {"type": "queue", "place": 1}
                first.close()
                assert json.loads(third.recv(timeout=20))["type"] == "begin"
    with play(server, prompt="five", seconds=0.1) as last:
        assert receive(last)[0][-1]["type"] == "end"
    assert engine.places.free == 1 and not engine.places.queue


def test_a_program_that_hangs_up_makes_room(server, engine):
    """While it waits, and while its clip is made."""
    ask = ASK | {"seconds": 600.0}
    with play(server, prompt="one") as first:
        assert json.loads(first.recv())["type"] == "begin"
        for send in (
            lambda: httpx.post(f"{server}/v1/audio/generations", json=ask, timeout=0.3),
            lambda: hang_up(server),
        ):
            with pytest.raises(httpx.TimeoutException):
                send()
            assert wait_for(lambda: not engine.places.queue)
    assert wait_for(lambda: engine.places.free == 1)
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{server}/v1/audio/generations", json=ask, timeout=0.5)
    assert wait_for(lambda: engine.places.free == 1)


def hang_up(server):
    with httpx.stream("GET", f"{server}/v1/audio/stream?prompt=x", timeout=0.3) as answer:
        for _ in answer.iter_bytes():
            raise AssertionError("somebody else has the place")


def test_several_listeners_hear_what_each_hears_alone():
    """At once, of one model, in one batch; one of them steers, one leaves. Made again with nobody else there, each take
    has the same samples."""

    def take(server, seed):
        with play(server, prompt="a tune", seconds=4.0, seed=seed) as socket:
            messages, pcm = receive(socket, until="pace")
            if seed == 1:
                socket.send(json.dumps({"type": "steer", "prompt": "another tune"}))
            if seed == 2:
                return None
            more, rest = receive(socket)
            if seed == 1:
                return more[-1]["recipe"], None
            return (messages + more)[-1]["recipe"], pcm + rest

    engine = make_engine(places=4)
    with running(studio(engine)) as server:
        with ThreadPoolExecutor(4) as listeners:
            takes = [found for found in listeners.map(partial(take, server), range(4)) if found]
        assert len(takes) == 3 and wait_for(lambda: engine.places.free == 4)
        kept = {made.recipe.turns[0].seed: made.path.read_bytes() for made in engine.takes.values()}
        for recipe, pcm in takes:
            with play(server, recipe=recipe) as socket:
                again = receive(socket)[1]
            seed = recipe["turns"][0]["seed"]
            assert len(again) == 4 * 8000 * 2 and again == kept[seed], seed
            assert pcm is None or pcm == again


def test_places_are_never_lost():
    """Whoever is cancelled, waiting or playing, makes room; nobody overtakes."""

    async def run():
        places, order, now = Places(2, 100), [], 0

        async def one(i):
            nonlocal now

            async def tell(place):
                pass

            async with places.take(tell):
                now += 1
                assert now <= 2
                order.append(i)
                try:
                    await asyncio.sleep(0.001 * (i % 3))
                finally:
                    now -= 1

        tasks = [asyncio.ensure_future(one(i)) for i in range(40)]
        await asyncio.sleep(0.004)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert places.free == 2 and not places.queue and order == sorted(order)

    with ThreadPoolExecutor(1) as pool:  # the browser's tests leave a loop in this thread
        pool.submit(asyncio.run, asyncio.wait_for(run(), 20)).result()


@pytest.mark.parametrize(
    "asked, status, words",
    [
        ({"prompt": ""}, 400, "prompt is empty"),
        ({"prompt": 7}, 400, "prompt is empty"),
        ({}, 400, "prompt is empty"),
        ({"prompt": "x" * 1001}, 413, "1001 characters"),
        ({"seconds": 1e9}, 400, "at most 600 seconds"),
        ({"seconds": -1}, 400, "above 0"),
        ({"seconds": "long"}, 400, "must be a number"),
        ({"seed": -1}, 400, "seed must be"),
        ({"seed": 1.5}, 400, "seed must be"),
        ({"model": "../../etc"}, 404, "no model"),
        ({"sampling": {"temperature": -1}}, 400, "temperature"),
        ({"sampling": {"volume": 1}}, 400, "volume"),
        ({"sampling": 3}, 400, "sampling must be"),
        ({"steps": 3}, 400, "two stages"),
        ({"format": "../x"}, 400, "no format"),
        ({"before": "3:AAAA"}, 400, "codes to go on from"),
        ({"before": "3:" + "A" * 20000}, 413, "goes on from at most"),
        ({"volume": 11}, 400, "no setting"),
        ({"recipe": {"model": "small"}}, 400, "not a valid recipe"),
        ({"recipe": []}, 400, "JSON object"),
    ],
)
def test_what_cannot_be_made_is_refused(client, server, asked, status, words):
    refused(client.post("/v1/audio/generations", json=({} if not asked else ASK) | asked), status, words)
    asked = {key: value for key, value in asked.items() if key != "format"}
    if asked:
        with play(server, **ASK | asked) as socket:
            messages, pcm = receive(socket)
            assert not pcm and words in messages[-1]["error"]


def test_what_has_no_end_is_not_sent_whole(client, engine):
    recipe = engine.recipe(ASK).to_json()
    refused(client.post("/v1/audio/generations", json=ASK | {"seconds": None}), 400, "must end")
    again = {"recipe": recipe | {"frames": 0, "samples": 2**62}}
    refused(client.post("/v1/audio/generations", json=again), 413, "made again")
    turns = [recipe["turns"][0] | {"frame": frame} for frame in (0, 20, 10)]
    for path in ("generations", "stream"):
        again = {"recipe": recipe | {"turns": turns}}
        refused(client.post(f"/v1/audio/{path}", json=again), 400, "one after another")


def test_broken_requests_are_refused(client):
    def send(content, kind="application/json"):
        return client.post("/v1/audio/generations", content=content, headers={"content-type": kind})

    refused(send(b"{"), 400, "not JSON")
    refused(send(b"[1]"), 400, "JSON object")
    refused(send(b"\xff\xfe"), 400, "not JSON")
    refused(send(b'{"prompt": "x", "seconds": NaN}'), 400, "no JSON number")
    refused(send(b'{"a":' * 9000), 400, "not JSON")
    refused(send(b"prompt=x", "application/x-www-form-urlencoded"), 415, "send JSON")
    refused(send(b"x" * 100_000), 413, "too large")
    refused(client.put("/v1/audio/generations"), 405, "does not accept")
    refused(client.get("/v1/nothing"), 404, "no such page")


def test_broken_uploads_are_refused(client):
    def send(content, name="x.wav"):
        return client.post("/v1/audio/read", params={"name": name}, content=content)

    refused(send(b"x" * 200_001), 413, "too large")
    refused(client.post("/v1/audio/read?name=x.wav", content=iter([b"x" * 90_000] * 9)), 413, "too large")
    refused(send(b""), 400, "empty")
    refused(send(b"RIFF" + bytes(100)), 422, "not an audio file")
    refused(send(b"fLaC" + bytes(2000), "x.flac"), 422, "not an audio file")
    refused(send(b"x", "x.exe"), 415, "not read")
    refused(send(b"x", "../../x"), 415, "not read")
    refused(send(b"x", ""), 415, "not read")


@pytest.mark.parametrize(
    "path",
    [
        "/../web.py",
        "/%2e%2e/%2e%2e/web.py",
        "/..%2f..%2fweb.py",
        "/%5c..%5c..%5cweb.py",
        "//etc/passwd",
        "/studio.js/../../..",
    ]
    + [
        "/v1/audio/takes/..%2f..%2fetc%2fpasswd.wav",
        "/v1/audio/takes/' OR 1=1.wav",
        "/%00",
        "/static/studio/studio.js",
    ],
)
def test_no_file_outside_is_served(server, path):
    from urllib.parse import urlsplit

    address = urlsplit(server)
    import socket as sockets

    with sockets.create_connection((address.hostname, address.port)) as raw:  # as it stands, no client tidies it
        raw.sendall(
            f"GET {path.replace(' ', '%20')} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while part := raw.recv(65536):
            answer += part
    assert answer.split(b"\r\n")[0].split()[1] in (b"404", b"400")
    assert b"root:" not in answer and b"import" not in answer


def test_only_pages_of_this_server_may_ask(client, server):
    evil = {"origin": "http://evil.example"}
    refused(client.post("/v1/audio/generations", json=ASK, headers=evil), 403, "another site")
    refused(client.get("/v1/audio/stream?prompt=x", headers={"sec-fetch-site": "cross-site"}), 403, "another site")
    refused(client.get("/v1/models", headers={"host": "evil.example"}), 421, "not called")
    refused(client.get("/v1/models", headers={"host": "127.0.0.1.evil.example:8000"}), 421, "not called")
    assert client.get("/v1/models", headers={"host": "studio.example"}).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    refused(client.get("/v1/audio/stream?prompt=x", headers=link), 403, "another site")
    for headers in (evil, {"origin": "null"}):
        with pytest.raises(Exception, match="403"):
            connect(server.replace("http", "ws") + "/v1/play", additional_headers=headers)


def test_every_answer_says_what_a_page_may_load(client):
    for path in ("/", "/studio.js", "/v1/models", "/nothing", "/docs.html"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"] and "unsafe" not in str(headers)
        assert headers["x-content-type-options"] == "nosniff"
    assert "javascript" in client.get("/ring-worklet.js").headers["content-type"]


@pytest.mark.parametrize(
    "messages, words",
    [
        ([{"type": "heard", "heard": 1}] * 400, "too many messages"),
        ([{"type": "steer", "prompt": "x" * 2000}], "2000 characters"),
        ([{"type": "steer", "prompt": ""}], "prompt is empty"),
        ([{"type": "fork", "seed": "x"}], "seed must be"),
        ([{"type": "heard", "heard": -3}], "heard must be"),
        ([{"type": "shout"}], "no message"),
        (["nonsense"], "not JSON"),
        ([b"\0\1"], "bytes are not taken"),
    ],
)
def test_a_socket_that_floods_or_babbles_is_closed(server, engine, messages, words):
    with play(server, prompt="a tune") as socket:
        found = []

        def read():
            found.extend(
                receive(socket)[0] if isinstance(messages[0], str | bytes) or len(messages) < 100 else drain(socket)
            )

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for message in messages:
                socket.send(json.dumps(message) if isinstance(message, dict) else message)
        except ConnectionClosed:
            pass
        reader.join(60)
    assert words in found[-1]["error"]
    assert wait_for(lambda: engine.places.free == 1)


def drain(socket):
    messages = []
    try:
        while True:
            got = socket.recv(timeout=60)
            if isinstance(got, str):
                messages.append(json.loads(got))
    except ConnectionClosed:
        return messages


def test_a_message_that_is_too_long_closes_the_socket(server, engine):
    with play(server, prompt="a tune") as socket:
        socket.send("x" * (web.MESSAGE_LIMIT + 1))
        with pytest.raises(ConnectionClosed):
            while True:
                socket.recv(timeout=60)
    assert wait_for(lambda: engine.places.free == 1)


def wait_for(true):
    """Whether it becomes true; how soon says nothing here."""
    import time

    for _ in range(2000):
        if true():
            return True
        time.sleep(0.01)
    return False


def test_the_port_that_is_taken_is_named(server):
    port = int(server.rsplit(":", 1)[1])
    with pytest.raises(web.UserError, match=f"port {port}.*--port"):
        web.listen_on("127.0.0.1", port)


def test_openapi_names_every_address(client, engine):
    spec = client.get("/v1/openapi.json").json()
    app = studio(engine)
    paths = {route.path for route in app.routes if getattr(route, "methods", None) and "openapi" not in route.path}
    assert {path.replace("{format}", "{suffix}") for path in spec["paths"]} == paths
