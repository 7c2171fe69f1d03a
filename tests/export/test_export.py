"""Exported models: ONNX Runtime plays what PyTorch plays, and without it."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
import torch
from test_codec import CODECS
from tiny import TEXT, make_codec, make_lm
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import T5Config, T5EncoderModel

from ostinato.cli.export import generate_exported
from ostinato.export.graphs import DecodeCodes, Text
from ostinato.export.runtime import Noise, load_exported
from ostinato.export.trace import trace
from ostinato.export.write import export_model
from ostinato.generation.fine_stage import SEEDS, FineStage, Scale
from ostinato.generation.pipeline import Ostinato
from ostinato.generation.sampling import Sampling
from ostinato.generation.settings import FineSampling
from ostinato.models.denoisers import FineConfig, make_denoiser
from ostinato.models.minilm import BertEncoder
from ostinato.models.text_encoder import T5, MiniLM, Tokens
from ostinato.utils.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytestmark = pytest.mark.slow

PROMPT = "slow organ , then strings"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "slow", "organ", "then", "string", "##s", ","]


class Words(MiniLM):
    """A reader of few words, of MiniLM's making."""

    def __init__(self, seed=0):
        tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        torch.manual_seed(seed)
        Tokens.__init__(self, "words", tokenizer, BertEncoder(len(WORDS), TEXT, 1, 2, 16, 16), TEXT, 16, pad=0)


def make_model(variant="prefix-simba", K=3, pattern="delay", sampling=Sampling(2.5, 1.1, 9, 0.9), **sizes):
    lm = make_lm(variant, K, pattern, dtype=torch.float32, codebook_size=32, **sizes)
    return Ostinato(lm, Words(), make_codec(), {"codec": "codec", "text": "words"}, sampling)


def make_two_stages(settings, text=None, **changes):
    model = make_model(K=1, pattern="single", sampling=Sampling(1.0, 1.0, 0))
    sizes = {"num_codebooks": 3, "latent_width": 4, "codebook_size": 32, "text_width": TEXT, "width": 16, "heads": 2}
    sizes |= {"multiples": (1, 2), "blocks": 1, "feed_forward": 24, "state": 5, "head_width": 8, "chunk": 7}
    torch.manual_seed(1)
    denoiser = make_denoiser(FineConfig(**sizes | changes)).eval()
    with torch.no_grad():
        for p in denoiser.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    scale = Scale((0.1,) * 12, (0.5,) * 12)
    model.fine = FineStage(denoiser, model.codec, scale, settings, {"text": "words"}, text)
    return model


class TorchNoise(Noise):
    """PyTorch's random numbers, as `generation.sampling` and `generation.fine_stage` take them."""

    def __init__(self, seed):
        self.codes, self.latents = (torch.Generator().manual_seed(s) for s in (seed, seed + SEEDS))

    def exponential(self, *shape):
        return torch.empty(shape[1:]).exponential_(generator=self.codes)[None].numpy()

    def normal(self, frames, *shape):
        rows = [torch.randn(shape, generator=self.latents) for _ in range(frames)]
        return torch.stack(rows, -1).numpy() if rows else np.zeros((*shape, 0), np.float32)


def played(exported, frames, settings, seed=5):
    pieces = list(exported.play(PROMPT, frames, seed, settings, noise=TorchNoise(seed)))
    return (np.concatenate(rows, -1) for rows in zip(*pieces, strict=True))


def plays_the_same(model, folder, frames, settings, seed=5):
    exported = load_exported(export_model(model, "tiny", folder))
    clip = model.generate(PROMPT, frames / model.codec.frame_rate, seed, settings)
    audio, codes = played(exported, frames, settings)
    assert np.array_equal(codes, clip.codes.numpy())
    assert np.abs(audio - clip.audio[0].numpy()).max() < 1e-4
    return exported


@pytest.mark.parametrize(
    ("variant", "K", "pattern", "sizes"),
    [
        ("prefix-mamba", 1, "single", {}),
        ("prefix-simba", 3, "delay", {"condition_norm": True, "positions": "sinusoidal"}),
        ("prefix-simba", 3, "flatten", {"norm": "layer", "final_norm": False}),
        ("cross-simba", 3, "delay", {"text_positions": True, "positions": "audiocraft"}),
        ("cross-transformer", 3, "delay", {"attention_bias": True}),
    ],
)
def test_every_language_model_plays_the_same(variant, K, pattern, sizes, tmp_path):
    model = make_model(variant, K, pattern, **sizes)
    exported = plays_the_same(model, tmp_path, 60, model.sampling)
    for settings in (Sampling(2.5, 0.0, negative="strings"), Sampling(1.0, 0.0), Sampling(1.0, 1.3, 0, 0.7)):
        clip = model.generate(PROMPT, 20 / model.codec.frame_rate, 5, settings)
        assert np.array_equal(list(played(exported, 20, settings))[1], clip.codes.numpy())


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (
            FineSampling("dpm++", 3, 1.0, 0.5, 0.1, temperature=0.8, snapped=False),
            {"denoiser": "simba", "prediction_type": "codes"},
        ),
        (FineSampling("ddpm", 3, 2.0, 0.5, 0.1, first=0.3), {"denoiser": "unet", "prediction_type": "v"}),
    ],
)
def test_two_stages_play_the_same(settings, changes, tmp_path):
    model = make_two_stages(settings, Words(2) if settings.first else None, **changes)
    exported = plays_the_same(model, tmp_path, 57, model.sampling)
    clip = model.generate(PROMPT, 10 / model.codec.frame_rate, 5)  # less than a window
    assert np.array_equal(list(played(exported, 10, model.sampling))[1], clip.codes.numpy())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported model of one stage."""
    return export_model(make_model(), "tiny", tmp_path_factory.mktemp("exported"))


def run(code, *arguments):
    """`ostinato` with these arguments, then `code`, in a new process."""
    program = (
        "import sys\nfrom ostinato import cli\ntry: cli.main()\nexcept SystemExit as end: code = end.code\n" + code
    )
    return subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, timeout=120)


def test_generating_imports_no_torch_and_a_stream_is_the_file(folder, tmp_path):
    options = ["generate", "slow organ", "--runtime", "onnx", "--model", folder, "--seconds", "1", "--seed", "3", "-o"]
    heavy = "sys.exit(sorted({'torch', 'transformers', 'onnx'} & sys.modules.keys()) or code)"
    done = run(heavy, *options, tmp_path / "a.wav")
    assert done.returncode == 0, done.stderr
    stream = run(heavy, *options, "-")
    audio = np.frombuffer(stream.stdout[44:], "<i2")
    assert stream.returncode == 0 and audio.shape == (8000,) and audio.std() > 0
    assert np.array_equal(sf.read(tmp_path / "a.wav", dtype="int16")[0], audio)
    takes = [(3, "slow organ", tmp_path / "b.wav"), (4, "slow organ", tmp_path / "c.wav")]
    generate_exported(str(folder), takes, 1.0, {}, None)
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a.wav").read_bytes()
    assert (tmp_path / "c.wav").read_bytes() != (tmp_path / "a.wav").read_bytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--model", "nowhere"), "no ostinato.json"),
        (("--continue-from", __file__), "leave out --continue-from"),
        (("--steps", "3"), "no fine stage"),
        (("--runtime", "tflite"), "unknown runtime"),
        (("--runtime", "torch"), "play it with --runtime onnx"),
    ],
)
def test_what_cannot_be_played_is_said_in_a_line(folder, changed, message):
    done = run("sys.exit(code)", "generate", "slow", "--model", folder, "--runtime", "onnx", *changed)
    assert done.returncode == 2 and message in done.stderr.decode() and len(done.stderr.splitlines()) == 1


def test_what_is_missing_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'ostinato\[onnx\]'"):
        load_exported(folder)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'ostinato\[onnx\]'"):
        export_model(make_model(), "tiny", tmp_path)
    monkeypatch.undo()
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="letter"):
        export_model(make_model(), "tiny", tmp_path)
    with pytest.raises(UserError, match="another folder"):
        export_model(make_model(), "tiny", tmp_path / "letter.txt")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "ostinato.json").write_text((folder / "ostinato.json").read_text())
    with pytest.raises(UserError, match="export the model again"):
        load_exported(damaged)


@pytest.mark.parametrize("name", ["dac", "dac-odd", "encodec"])
def test_other_codecs_sound_the_same(name, tmp_path):
    codec = CODECS[name]
    path, axes = tmp_path / "decode.onnx", {"codes": {2: "frames"}, "audio": {1: "samples"}}
    trace(DecodeCodes(codec), {"codes": torch.zeros(1, 2, 10, dtype=torch.long)}, ["audio"], axes, path)
    codes = torch.randint(0, 16, (1, 2, 37), generator=torch.Generator().manual_seed(0))
    found = onnxruntime.InferenceSession(path).run(None, {"codes": codes.numpy()})[0]
    assert np.abs(found - codec.decode(codes)[:, 0].numpy()).max() < 1e-4


def test_t5_reads_the_same(tmp_path):
    torch.manual_seed(0)
    model = T5EncoderModel(T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)).eval()
    encoder = T5.__new__(T5)
    Tokens.__init__(encoder, "t5", None, model, 16, 512, 0)
    axes = {"ids": {1: "tokens"}, "embeddings": {1: "tokens"}}
    ids = torch.randint(0, 20, (1, 40))
    trace(Text(encoder), {"ids": ids[:, :5]}, ["embeddings"], axes, tmp_path / "text.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "text.onnx").run(None, {"ids": ids.numpy()})[0]
    assert np.abs(found - encoder.read(ids, torch.ones_like(ids, dtype=torch.bool)).detach().numpy()).max() < 1e-5
