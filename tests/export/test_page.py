"""The exported page in a real browser: it reads, plays and sounds as ONNX Runtime does, and asks nobody else."""

import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile as sf
import torch
from test_export import PROMPT, make_model, make_two_stages
from tokenizers import Tokenizer

from ostinato.export.runtime import Noise, load_exported, open_graph
from ostinato.export.trace import trace
from ostinato.export.web import export_page, smaller
from ostinato.export.write import export_model
from ostinato.generation.settings import FineSampling, Sampling
from ostinato.models.text_encoder import minilm_folder
from ostinato.utils.errors import UserError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytestmark = pytest.mark.slow

MODELS = {
    "one stage": make_model("cross-transformer", sampling=Sampling(2.5, 0.0)),
    "two stages": make_two_stages(
        FineSampling("ddpm", 3, 2.0, 0.5, 0.1, first=0.2, snapped=False), denoiser="simba", prediction_type="codes"
    ),
}


class Even(Noise):
    """The same at every draw, in the browser and here."""

    def exponential(self, *shape):
        return np.ones(shape, np.float32)

    def normal(self, frames, *shape):
        return np.full((*shape, frames), 0.5, np.float32)


EVEN = "{ exponential: (n) => new Float32Array(n).fill(1), normal: (n) => new Float32Array(n).fill(0.5) }"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(folder):
    """The address of `folder` on a plain web server, as `python -m http.server` has it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("name", MODELS)
def test_the_browser_plays_the_same(name, page, tmp_path):
    exported = load_exported(export_model(MODELS[name], name, tmp_path / "graphs"))
    wanted = np.concatenate([samples for samples, _ in exported.play(PROMPT, 57, noise=Even(0))])
    with served(export_page(MODELS[name], name, tmp_path / "page")) as address:
        page.goto(address)
        found = page.evaluate(
            f"""async (prompt) => {{
              const {{ Model }} = await import("./model.js");
              const model = await Model.load("model", () => {{}}), sound = [];
              for await (const piece of model.play(prompt, {{ frames: 57, noise: {EVEN} }})) sound.push(...piece);
              return sound;
            }}""",
            PROMPT,
        )
    assert len(found) == len(wanted) and np.abs(np.clip(found, -1, 1) - wanted).max() < 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_page(make_model(), "tiny", tmp_path_factory.mktemp("page"))


def test_a_sentence_becomes_music_and_nobody_else_is_asked(page, folder):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with served(folder) as address:
        page.goto(address)
        page.wait_for_selector("#play:enabled")
        page.fill("#prompt", PROMPT)
        page.evaluate("document.querySelector('#seconds').append(new Option('2', '2', true, true))")
        page.click("#play")
        for _ in range(1200):
            if page.evaluate("globalThis.heard?.over"):
                break
            page.wait_for_timeout(50)
        heard = page.evaluate("globalThis.heard")
        assert heard["read"] == 16000 and heard["underruns"] == heard["silent"] == heard["dropped"] == 0
        assert "real-time factor" in page.inner_text("#status")
        with page.expect_download() as download:
            page.click("#save")
    audio, rate = sf.read(download.value.path(), dtype="int16")
    assert download.value.suggested_filename == "slow-organ-then-strings.wav"
    assert rate == 8000 and audio.shape == (16000,) and audio.std() > 0
    assert asked and all(url.startswith((address, "blob:")) for url in asked)


def test_words_are_those_of_tokenizers(page, folder):
    theirs = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    theirs.no_padding()
    theirs.enable_truncation(40)
    texts = ["", "A slow Bach chorale, played on church organ!", "naïve Ångström ÉLAN", "音楽 and кириллица"]
    texts += ["a\tb\n\u200bc\u00a0d", "don't stop — go: 4/4, 120bpm", "x" * 101 + " y", "e\u0301tude №5 ½ ﬁne"]
    texts += ["🎹 piano 🎻", "well " * 60, "[SEP] a[MASK]b #$%& [CL"]
    with served(folder) as address:
        page.goto(f"{address}tokenizer.js")  # the place alone: nothing needs to be loaded
        found = page.evaluate(
            """async ([json, texts]) => {
              const { Tokenizer } = await import("./tokenizer.js");
              const tokenizer = new Tokenizer(JSON.parse(json));
              return texts.map((text) => tokenizer.encode(text, 40));
            }""",
            [theirs.to_str(), texts],
        )
    assert found == [row.ids for row in theirs.encode_batch(texts)]


@pytest.mark.parametrize(("bits", "error", "share"), [(16, 1e-3, 0.55), (8, 2e-2, 0.3)])
def test_weights_of_few_bits(bits, error, share, tmp_path):
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(300, 400), torch.randn(1, 300)
    trace(linear, {"x": x}, ["y"], {}, tmp_path / "whole.onnx")
    (tmp_path / "small.onnx").write_bytes(smaller(tmp_path / "whole.onnx", bits))
    whole, small = (open_graph(tmp_path / f"{n}.onnx").run(None, {"x": x.numpy()})[0] for n in ("whole", "small"))
    assert 0 < np.abs(whole - small).max() < error
    assert (tmp_path / "small.onnx").stat().st_size < share * (tmp_path / "whole.onnx").stat().st_size


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "index.html").write_text("mine")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="letter"):
        export_page(MODELS["two stages"], "tiny", tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"
