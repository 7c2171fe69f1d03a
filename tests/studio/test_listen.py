"""The listening test without a browser: its clips, who hears which, and a server that is attacked and killed."""

import http.client
import json
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from ostinato.utils.errors import UserError

pytest.importorskip("starlette", reason="Starlette is not installed: pip install 'ostinato[studio]'")
pyloudnorm = pytest.importorskip("pyloudnorm", reason="pyloudnorm is not installed: pip install 'ostinato[studio]'")

# ruff: noqa: E402
from ostinato.evaluation.reporting.report import report
from ostinato.generation.recipe import Recipe
from ostinato.generation.settings import Sampling
from ostinato.generation.streaming import Turn
from ostinato.studio.listen.assignment import assign
from ostinato.studio.listen.ballots import Ballots
from ostinato.studio.listen.manifest import SCALES, ListeningTest, Prompt, Stimulus, System, read_test
from ostinato.studio.listen.prepare import Options, prepare
from ostinato.studio.listen.results import results
from ostinato.studio.listen.stimuli import RATE, attention_clip, headphone_trials
from ostinato.studio.web import Refusal
from ostinato.utils.audio import write_audio

SYSTEMS = ("musicgen-small", "ssm-100k", "transformer-400k")


def folders(root, systems=SYSTEMS, prompts=4, text="a tune of {}"):
    """A folder of clips a system, each clip its own tone, level, length and sample rate, the sentence in its tags."""
    made = []
    for j, system in enumerate(systems):
        (root / system).mkdir(parents=True)
        rate = (44_100, 32_000, 48_000)[j % 3]
        for i in range(prompts):
            t = np.arange(round((1.2 + 0.1 * j) * rate)) / rate
            tone = 0.05 * (j + 1) * np.sin(2 * np.pi * 220 * (i + 1) * 2 ** (j / 12) * t)
            with sf.SoundFile(root / system / f"tune{i}.wav", "w", rate, 1) as file:
                file.comment = text.format(i)
                file.write(tone)
        made.append(str(root / system))
    return made


def prepared(root, systems=SYSTEMS, prompts=4, text="a tune of {}", **options):
    prepare(folders(root / "clips", systems, prompts, text), root / "test", Options(**options))
    return root / "test"


@contextmanager
def served(folder, port=0):
    """(process, address) of `ostinato listen serve`."""
    command = [sys.executable, "-m", "ostinato.cli", "listen", "serve", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process, re.search(r"http://\S+", process.stdout.readline())[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_sentence_of_a_clip_that_ostinato_made(tmp_path):
    for system in ("a", "b"):
        (tmp_path / system).mkdir()
        recipe = Recipe("pocket", "0", (Turn(0, "a calm piano", 7),), Sampling())
        write_audio(tmp_path / system / "tune.wav", torch.rand(1, 96_000) - 0.5, 48_000, recipe.tags())
    test, _ = prepare([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "test", Options())
    assert test.prompts == (Prompt("tune", "a calm piano"),)


class Listener:
    """A browser's half of the protocol. `ask` gives status and body, whatever they are."""

    def __init__(self, address):
        self.host = address.removeprefix("http://")
        self.cookie = ""

    def ask(self, method, path, body=None, headers=()):
        connection = http.client.HTTPConnection(self.host, timeout=60)
        sent = {"cookie": self.cookie, "origin": f"http://{self.host}"} | dict(headers)
        if isinstance(body, dict):
            body = json.dumps(body)
            sent.setdefault("content-type", "application/json")
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        if given := answer.getheader("set-cookie"):
            self.cookie = given.partition(";")[0]
        found = answer.read()
        connection.close()
        self.headers = dict(answer.getheaders())
        return answer.status, found

    def post(self, path, **body):
        status, found = self.ask("POST", path, body)
        return status, json.loads(found)

    def state(self):
        return json.loads(self.ask("GET", "/api/state")[1])["state"]

    def begin(self):
        assert self.post("/api/begin", consent=True)[0] == 200
        return self.state()

    def rate_page(self, state, mark):
        """Give every clip of a page `mark(clip number, scale)`, and hand it in. Returns the next state."""
        for i, clip in enumerate(state["clips"]):
            for scale in SCALES:
                assert self.post("/api/rating", clip=clip["id"], scale=scale, value=mark(i, scale))[0] == 200
        status, found = self.post("/api/page", page=state["page"])
        assert status == 200, found
        return found["state"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A served test with a script in its prompts: (folder, address)."""
    folder = prepared(tmp_path_factory.mktemp("listen"), text="tune {} <script>stolen=1</script>")
    with served(folder) as (_, address):
        yield folder, address


def test_nothing_of_a_clip_but_its_sound_tells_its_system(tmp_path):
    test = read_test(folder := prepared(tmp_path, attention=True))
    meter, levels, lengths = pyloudnorm.Meter(RATE), [], set()
    for stimulus in test.stimuli:
        audio, rate = sf.read(folder / "clips" / stimulus.file)
        assert rate == RATE and audio.ndim == 1 and np.abs(audio).max() < 1
        assert re.fullmatch(r"[0-9a-f]{16}\.flac", stimulus.file)
        assert (folder / "clips" / stimulus.file).stat().st_mtime == 0
        if stimulus.beeps is None:
            levels.append(meter.integrated_loudness(audio))
            lengths.add(len(audio))
    assert np.ptp(levels) < 0.1 and np.mean(levels) == pytest.approx(test.loudness, abs=0.1) and len(lengths) == 1


def test_a_loudness_that_would_clip_is_lowered_for_all(tmp_path):
    folder = tmp_path / "clips"
    for name, loud in (("even", 0.0), ("spiked", 0.9)):
        (folder / name).mkdir(parents=True)
        audio = 0.02 * np.sin(np.arange(2 * RATE) / 20)
        audio[RATE] += loud
        sf.write(folder / name / "a.wav", audio, RATE)
    (tmp_path / "c.csv").write_text("name,caption\na,a tune\n")
    options = Options(session=1, captions=str(tmp_path / "c.csv"))
    test, notes = prepare([str(folder / "even"), str(folder / "spiked")], tmp_path / "test", options)
    assert test.loudness < -30 and any("spiked would clip" in note for note in notes)
    for stimulus in test.stimuli:
        assert np.abs(sf.read(tmp_path / "test" / "clips" / stimulus.file)[0]).max() <= 10 ** (-1 / 20) + 1e-3


def test_the_checks_sound_as_they_say():
    trials = headphone_trials(0)
    assert len({(answer, round(float(audio[20_000, 1]), 3)) for audio, answer in trials}) >= 5
    for audio, answer in trials:
        tones = [audio[round(1.5 * i * RATE) :][:RATE] for i in range(3)]
        power = [float((tone[:, 0] ** 2).mean()) for tone in tones]
        in_air = [float((tone.sum(1) ** 2).mean()) for tone in tones]  # what a loudspeaker's room adds up
        assert int(np.argmin(power)) == answer and int(np.argmin(in_air)) != answer
    beeps = attention_clip(0.3 * np.ones(4 * RATE, np.float32), 4)
    loud = np.abs(beeps[RATE:]).reshape(-1, 441).max(1) > 0.05
    assert np.diff(loud.astype(int)).clip(0).sum() == 4


def made_up(mode, systems, prompts, session, attention=False):
    """A test without sounds."""
    pool = [Stimulus(f"{p}-{s}", p, s, 10.0) for p in range(prompts) for s in range(systems)]
    pool += [Stimulus(f"{p}-beeps", p, 0, 10.0, 3) for p in range(prompts)] if attention else []
    return ListeningTest(
        "id", "", mode, session, False, (), -23.0, RATE, 0,
        tuple(System(f"system{s}", "clips", {}) for s in range(systems)),
        tuple(Prompt(f"p{p}", "") for p in range(prompts)), tuple(pool),
    )  # fmt: skip


@given(st.sampled_from(["scales", "pairs"]), st.integers(2, 5), st.integers(1, 9), st.data(), st.integers(1, 25))
def test_every_clip_is_heard_as_often(mode, systems, prompts, data, listeners):
    test = made_up(mode, systems, prompts, data.draw(st.integers(1, prompts)), data.draw(st.booleans()))
    of = {s.file: s for s in test.stimuli}
    heard, first = Counter(), Counter()
    for number in range(listeners):
        pages = assign(test, heard, np.random.default_rng(number))
        checks = [p for p in pages if any(of[f].beeps for f in p.files)]
        assert len(checks) == any(s.beeps for s in test.stimuli)
        judged = [p for p in pages if mode == "scales" or p not in checks]
        assert len({p.prompt for p in judged}) == len(judged) == test.session
        for page in judged:
            shown = [f for f in page.files if not of[f].beeps]
            assert {of[f].prompt for f in shown} == {page.prompt}
            assert len({of[f].system for f in shown}) == len(shown) == (systems if mode == "scales" else 2)
            heard[page.prompt, tuple(sorted(of[f].system for f in shown))] += 1
            first[of[shown[0]].system] += 1
    if mode == "scales":
        counts = [heard[p, tuple(range(systems))] for p in range(prompts)]
    else:
        pairs = Counter()
        for (_, pair), n in heard.items():
            pairs[pair] += n
        counts = [pairs[a, b] for a in range(systems) for b in range(a + 1, systems)]
    assert max(counts) - min(counts) <= 1


def test_no_answer_is_lost_when_the_server_is_killed(tmp_path):
    folder = prepared(tmp_path)
    with served(folder) as (process, address):
        listener = Listener(address)
        state = listener.begin()
        first = listener.rate_page(state, lambda i, scale: 1 + i)
        clip = first["clips"][0]["id"]
        assert listener.post("/api/rating", clip=clip, scale="overall", value=2) == (200, {"saved": True})
        process.send_signal(signal.SIGKILL)
        process.wait()
    with served(folder) as (_, address):
        listener.host = address.removeprefix("http://")
        again = listener.state()
        first["clips"][0]["ratings"] = {"overall": 2.0}
        assert again == first
        assert listener.post("/api/page", page=0)[0] == 200  # asked again by a browser that did not hear the answer
        assert listener.state()["page"] == 1 and listener.post("/api/page", page=2)[0] == 409


def test_an_answer_that_fails_leaves_the_database_as_it_was(tmp_path):
    folder = prepared(tmp_path)
    test = read_test(folder)
    ballots = Ballots(folder, test)
    session = ballots.find(ballots.begin())
    assert ballots.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ballots.db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: a commit is on the disk
    with pytest.raises(Refusal, match="could not be saved"), ballots.writing() as db:
        db.execute("UPDATE sessions SET headphones = 1")
        raise sqlite3.OperationalError("disk full")
    assert ballots.find("nobody") is None
    ballots.rate(session, session.pages[0].clips[0].id, "overall", 3)
    (again,) = ballots.everyone()
    assert again.headphones is None and again.pages[0].clips[0].ratings == {"overall": 3}
    ballots.close()
    (folder / "test.json").write_text((folder / "test.json").read_text().replace(test.id, "00000000"))
    with pytest.raises(UserError, match="another test"):
        Ballots(folder, read_test(folder))


def test_no_file_of_the_machine_is_served(place):
    folder, address = place
    listener = Listener(address)
    state = listener.begin()
    mine = state["clips"][0]["id"]
    assert listener.ask("GET", f"/clips/{mine}")[0] == 200
    file = read_test(folder).stimuli[0].file
    secrets = [(folder / "test.json").read_bytes(), (folder / "ratings.db").read_bytes()[:100], b"root:"]
    up = "/%2e%2e"
    for path in (
        "/test.json", "/ratings.db", "/clips/", "/clips/../test.json", "/clips/..%2ftest.json", f"/clips{up}/test.json",
        f"/clips/{file}", f"/clips/{mine}/../../test.json", f"/clips/..%2f..%2ftest%2f{file}", "/check/volume",
        "/check/../test.json", "/../../../../etc/passwd", "/..%2f..%2f..%2f..%2fetc/passwd", f"{up}{up}/etc/passwd",
        "//etc/passwd", "/clips/%00", "/clips//etc/passwd", f"/clips/{folder}/test.json", "/..\\..\\test.json",
        "/main.js/../../web.py", "/..%5c..%5ctest.json",
    ):  # fmt: skip
        status, body = listener.ask("GET", path)
        assert status in (400, 404, 405), (path, status)
        assert not any(secret in body for secret in secrets) and b"error" in body, path


def test_a_listener_gets_their_own_clips_and_learns_no_system(place):
    _, address = place
    one, other = Listener(address), Listener(address)
    mine, theirs = one.begin()["clips"], other.begin()["clips"]
    assert {c["id"] for c in mine}.isdisjoint(c["id"] for c in theirs)
    seen = one.ask("GET", "/api/state")[1].decode()
    assert "<script>" in seen and not any(name in seen for name in (*SYSTEMS, ".flac"))
    dates = set()
    for clip in mine:
        assert one.ask("GET", f"/clips/{clip['id']}")[0] == 200
        dates.add(one.headers["last-modified"])
        assert Listener(address).ask("GET", f"/clips/{clip['id']}")[0] == 401
    assert len(dates) == 1
    assert one.ask("GET", f"/clips/{theirs[0]['id']}")[0] == 404
    assert one.post("/api/rating", clip=theirs[0]["id"], scale="overall", value=1)[0] == 404
    status, body = one.ask("GET", f"/clips/{mine[0]['id']}", headers={"range": "bytes=10-19"})
    assert status == 206 and len(body) == 10  # without ranges, some browsers play nothing


def test_what_should_not_be_asked_is_refused_in_words(place):
    _, address = place
    listener = Listener(address)
    state = listener.begin()
    clip = state["clips"][0]["id"]
    good = {"clip": clip, "scale": "overall", "value": 4}
    assert listener.post("/api/rating", **good) == (200, {"saved": True})
    injection = "x'; DROP TABLE ratings; --"
    for body, status in (
        (good | {"clip": injection}, 404),
        (good | {"clip": f"{clip}' OR '1'='1"}, 404),
        (good | {"scale": injection}, 400),
        (good | {"value": 6}, 400),
        (good | {"value": 0}, 400),
        (good | {"value": 2.5}, 400),
        (good | {"value": True}, 400),
        (good | {"value": "4"}, 400),
        (good | {"clip": ["a"]}, 400),
        ({}, 400),
    ):
        found, answer = listener.post("/api/rating", **body)
        assert found == status and answer["error"], body
    assert listener.ask("GET", f"/clips/{clip}'%20OR%201=1")[0] == 404
    text = json.dumps(good)
    for body, headers, status in (
        (text, {"content-type": "text/plain"}, 415),
        (text, {"content-type": "application/json", "origin": "https://elsewhere.example"}, 403),
        (text, {"content-type": "application/json", "origin": "null"}, 403),
        (text, {"content-type": "application/json", "sec-fetch-site": "cross-site"}, 403),
        (text, {"content-type": "application/json", "host": "elsewhere.example"}, 421),
        (text.replace("4}", "1e999}"), {"content-type": "application/json"}, 400),
        (text.replace("4}", "NaN}"), {"content-type": "application/json"}, 400),
        ("{", {"content-type": "application/json"}, 400),
        ("[" * 10_000, {"content-type": "application/json"}, 400),
        (" " * 200_000, {"content-type": "application/json"}, 413),
    ):
        found, answer = listener.ask("POST", "/api/rating", body, headers)
        assert found == status and b"error" in answer, (body[:80], headers, answer)
    stranger = Listener(address)
    stranger.cookie = re.sub("=.*", "=' OR 1=1 --", listener.cookie)
    assert stranger.post("/api/rating", **good)[0] == 401 and stranger.state() == {"stage": "consent"}
    assert stranger.post("/api/begin", consent="yes")[0] == 400
    assert listener.state()["clips"][0]["ratings"] == {"overall": 4.0}
    assert listener.post("/api/page", page=0)[0] == 409  # marks are missing
    assert listener.post("/api/begin", consent=True)[1]["state"] == listener.state()  # they go on where they were
    assert listener.ask("GET", "/")[0] == 200 and "default-src 'none'" in listener.headers["content-security-policy"]


def test_answers_that_are_taken_back_are_gone(tmp_path):
    folder = prepared(tmp_path)
    with served(folder) as (_, address):
        stays, goes = Listener(address), Listener(address)
        for listener in (stays, goes):
            listener.rate_page(listener.begin(), lambda i, scale: 5 - i)
        assert goes.post("/api/withdraw")[1] == {"state": {"stage": "consent"}}
        assert goes.state() == {"stage": "consent"}
        assert results(folder)["raters"] == 1


def listener_files(folder, listener, state):
    """Which files a page has, from the database: the browser is not told."""
    db = sqlite3.connect(folder / "ratings.db")
    try:
        return [db.execute("SELECT file FROM clips WHERE id = ?", (c["id"],)).fetchone()[0] for c in state["clips"]]
    finally:
        db.close()


def test_mistakes_are_told(tmp_path):
    clips = folders(tmp_path / "clips")
    folder = tmp_path / "test"
    for targets, options, words in (
        (clips[:1], Options(), "two systems or more"),
        ([clips[0], clips[0]], Options(), "two systems are named"),
        (clips, Options(session=9), "the pool has 4"),
        (clips, Options(session=0), "a session of 0 prompts"),
        (clips, Options(pool=9), "the systems share 4"),
        (clips, Options(anchor=True), "--reference"),
        (clips, Options(consent=tmp_path / "none.txt"), "consent"),
        ([*clips, str(tmp_path / "nowhere")], Options(), "no folder"),
    ):
        with pytest.raises(UserError, match=words):
            prepare(targets, folder, options)
        assert not folder.exists() and not list(tmp_path.glob(".test*"))
    sf.write(tmp_path / "clips" / SYSTEMS[0] / "tune0.wav", np.zeros(100), RATE)
    with pytest.raises(UserError, match="shorter than 1 s"):
        prepare(clips, folder, Options())
    prepare(clips[1:], folder, Options())
    with pytest.raises(UserError, match="there already"):
        prepare(clips[1:], folder, Options())
    with pytest.raises(UserError, match="nobody has listened"):
        results(folder)
    with pytest.raises(UserError, match="listen results"):
        report([], [], tmp_path / "report", listening=[folder])
    with pytest.raises(UserError, match="no listening test"):
        results(tmp_path)
