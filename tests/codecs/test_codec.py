"""Codecs: lengths, latents, first codebooks alone, files, names. Random small networks of the real classes."""

import importlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import make_codec
from torch import Tensor, nn
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from ostinato.codecs.base import fingerprint
from ostinato.codecs.dac import DAC
from ostinato.codecs.encodec import EnCodec
from ostinato.codecs.load import load_codec
from ostinato.codecs.pocket import PocketCodec, PocketConfig
from ostinato.training.config import load_run
from ostinato.utils.errors import UserError


def randomised(kind: type, config, seed: int):
    """A model whose codes, latents and audio all vary; as transformers starts it, they hardly do."""
    torch.manual_seed(seed)
    model = kind(config)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "codebook" in name and tensor.ndim == 2:
            nn.init.normal_(tensor.data, std=0.3)
        elif name.endswith("weight.original0"):  # the lengths that weight norm gives to the rows
            nn.init.constant_(tensor.data, 1.5)
        elif tensor.ndim == 3:
            nn.init.normal_(tensor.data, std=0.7 / math.sqrt(tensor[0].numel()))
    return model


def dac(ratios=(2, 4, 8, 8), seed=0, **changes) -> DAC:
    config = {
        "encoder_hidden_size": 2,
        "decoder_hidden_size": 2 ** (len(ratios) + 1),
        "downsampling_ratios": list(ratios),
        "n_codebooks": 4,
        "codebook_size": 32,
        "codebook_dim": 8,
        "sampling_rate": 44100,
    }
    return DAC(randomised(DacModel, DacConfig(**config | changes), seed))


# bits a frame = 4 (16 entries), 100 frames a second: 0.4 kbit/s a codebook, so 1, 2, 4 codebooks.
ENCODEC = {
    "num_filters": 2,
    "hidden_size": 6,
    "codebook_size": 16,
    "sampling_rate": 4000,
    "upsampling_ratios": [5, 4, 2],
    "target_bandwidths": [0.4, 0.8, 1.6],
    "num_lstm_layers": 1,
}


def encodec(seed=0, num_codebooks=None, **changes) -> EnCodec:
    return EnCodec(randomised(EncodecModel, EncodecConfig(**ENCODEC | changes), seed), num_codebooks)


CODECS = {
    "dac": dac(),
    "dac-odd": dac((2, 4, 5, 8), sampling_rate=24000),
    "encodec": encodec(),
    "encodec-acausal": encodec(use_causal_conv=False, use_conv_shortcut=False),
    "encodec-2": encodec(num_codebooks=2),
}
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def noise(samples: int, b: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(b, 1, samples, generator=torch.Generator().manual_seed(seed)) * 0.3


def some_codes(codec, n: int, T: int, b: int = 1, seed: int = 0) -> Tensor:
    return torch.randint(codec.codebook_size, (b, n, T), generator=torch.Generator().manual_seed(seed))


@every_codec
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_lengths_hold_for_any_number_of_samples(codec, data):
    hop = codec.hop
    near_a_frame = st.builds(lambda frames, off: max(1, frames * hop + off), st.integers(0, 6), st.integers(-2, 2))
    samples, b = data.draw(st.integers(1, 6 * hop) | near_a_frame), data.draw(st.integers(1, 2))
    audio = noise(samples, b)
    codes = codec.encode(audio)
    T = math.ceil(samples / hop)
    assert codes.shape == (b, codec.num_codebooks, T) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < codec.codebook_size
    assert torch.equal(codes, codec.encode(torch.cat([audio, torch.zeros(b, 1, T * hop - samples)], -1)))
    decoded = codec.decode(codes)
    assert decoded.shape == (b, 1, T * hop) and decoded.dtype == torch.float32 and decoded.isfinite().all()


@every_codec
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_latents_round_trip(codec, data):
    n, T = data.draw(st.integers(1, codec.num_codebooks)), data.draw(st.integers(1, 9))
    codes = some_codes(codec, n, T, data.draw(st.integers(1, 3)), data.draw(st.integers(0, 999)))
    latents = codec.codes_to_latents(codes)
    assert latents.shape == (len(codes), n * codec.latent_width, T)
    assert torch.equal(codec.latents_to_codes(latents), codes)


@every_codec
def test_codes_vary_and_so_does_the_audio(codec):
    """The networks of these tests are not so small that everything is equal to everything."""
    codes = codec.encode(noise(20 * codec.hop))
    assert all(len(codes[0, k].unique()) > 2 for k in range(codec.num_codebooks))
    every, first = codec.decode(codes), codec.decode(codes[:, :1])
    assert every.std() > 1e-4 and (every - first).abs().max() > 1e-4


def test_dac_latents_are_entries_and_the_nearest_is_by_angle():
    codec = CODECS["dac"]
    codes = some_codes(codec, 4, 7)
    latents = codec.codes_to_latents(codes)
    for k, quantizer in enumerate(codec.model.quantizer.quantizers):
        assert torch.equal(latents[0, 8 * k : 8 * k + 8].T, quantizer.codebook.weight[codes[0, k]])
    scale = torch.rand(1, 4, 1, 7).add(0.1).expand(1, 4, 8, 7).reshape(1, 32, 7)
    assert torch.equal(codec.latents_to_codes(latents * scale), codes)
    far = torch.randn(2, 32, 5)
    best = [
        nn.functional.cosine_similarity(
            far[:, 8 * k : 8 * k + 8].mT[:, :, None], quantizer.codebook.weight[None, None], dim=-1
        ).argmax(-1)
        for k, quantizer in enumerate(codec.model.quantizer.quantizers)
    ]
    assert torch.equal(codec.latents_to_codes(far), torch.stack(best, 1))


def test_encodec_nearest_is_by_plain_distance():
    codec = CODECS["encodec"]
    far = torch.randn(2, 4 * 6, 5)
    best = [
        torch.cdist(far[:, 6 * k : 6 * k + 6].mT.contiguous(), layer.codebook.embed[None]).argmin(-1)
        for k, layer in enumerate(codec.model.quantizer.layers)
    ]
    assert torch.equal(codec.latents_to_codes(far), torch.stack(best, 1))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_dac_from_first_codebooks_is_transformers_own(n):
    codec = CODECS["dac"]
    audio = noise(5 * codec.hop)
    with torch.no_grad():
        own = codec.model.encode(audio, n_quantizers=n)
        heard = codec.model.decode(own.quantized_representation).audio_values
    codes = codec.encode(audio)
    assert torch.equal(codes[:, :n], own.audio_codes)
    assert torch.allclose(codec.decode(codes[:, :n])[:, 0], heard, atol=1e-5)


@pytest.mark.parametrize(("n", "kbps"), [(1, 0.4), (2, 0.8), (4, 1.6)])
@pytest.mark.parametrize("causal", [True, False])
def test_encodec_from_first_codebooks_is_transformers_own(n, kbps, causal):
    codec = encodec(use_causal_conv=causal)
    audio = noise(7 * codec.hop)
    with torch.no_grad():
        own = codec.model.encode(audio, bandwidth=kbps)
        heard = codec.model.decode(own.audio_codes, own.audio_scales).audio_values
    codes = codec.encode(audio)
    assert torch.equal(codes[:, :n], own.audio_codes[0])
    assert torch.equal(codec.decode(codes[:, :n]), heard)
    assert torch.equal(encodec(num_codebooks=n, use_causal_conv=causal).encode(audio), codes[:, :n])


def test_numbers_of_the_published_configurations():
    """DAC 44.1 kHz and EnCodec 24 and 32 kHz, by the numbers of their config.json on the hub; weights on no device."""
    mtg = {"sampling_rate": 44100, "encoder_hidden_size": 64, "downsampling_ratios": [2, 4, 8, 8]}
    musicgen = {"sampling_rate": 32000, "target_bandwidths": [2.2], "codebook_size": 2048, "num_filters": 64}
    with torch.device("meta"):
        paper = DAC(DacConfig(**mtg))
        music = EnCodec(EncodecConfig(**musicgen, upsampling_ratios=[8, 5, 4, 4], use_causal_conv=False))
        speech = EnCodec(EncodecConfig())
        narrow = EnCodec(EncodecConfig(), num_codebooks=8)
    assert (paper.hop, paper.num_codebooks, paper.codebook_size, paper.latent_width) == (512, 9, 1024, 8)
    assert paper.frame_rate == pytest.approx(86.13, abs=0.01)
    assert (music.hop, music.num_codebooks, music.codebook_size, music.frame_rate) == (640, 4, 2048, 50)
    assert (speech.num_codebooks, speech.frame_rate, speech.latent_width, narrow.num_codebooks) == (32, 75, 128, 8)
    assert narrow.bandwidth == 6.0


@every_codec
def test_frozen_and_usable_inside_a_model_that_trains(codec):
    outer = nn.ModuleList([codec]).train()
    assert not any(module.training for module in codec.modules())
    assert not any(p.requires_grad for p in outer.parameters())
    codes = codec.encode(noise(3 * codec.hop).requires_grad_())
    weight = torch.ones(1, requires_grad=True)
    (codec.decode(codes) * codec.codes_to_latents(codes).mean() * weight).sum().backward()
    assert weight.grad is not None


@every_codec
def test_saved_and_loaded_it_is_the_same_codec(codec, tmp_path, capfd):
    codec.save_pretrained(tmp_path / "codec")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_codec(tmp_path / "codec")
    assert capfd.readouterr() == ("", "")
    assert type(loaded) is type(codec) and loaded.name == str(tmp_path / "codec")
    audio = noise(9 * codec.hop + 5, 2)
    codes = codec.encode(audio)
    assert loaded.num_codebooks == codec.num_codebooks
    assert torch.equal(loaded.encode(audio), codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))
    assert fingerprint(loaded) == fingerprint(codec)
    own = {"DAC": DacModel, "EnCodec": EncodecModel}[type(codec).__name__].from_pretrained(tmp_path / "codec")
    assert own.config.model_type == json.loads((tmp_path / "codec" / "config.json").read_text())["model_type"]


def test_weights_of_either_age_load(tmp_path):
    """The hub's EnCodec files were written before torch renamed what weight norm keeps (weight_g, weight_v)."""
    codec = CODECS["encodec"]
    codec.save_pretrained(tmp_path)
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in codec.model.state_dict().items()
    }
    assert any("weight_g" in name for name in old)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    audio = noise(9 * codec.hop)
    assert torch.equal(load_codec(tmp_path).encode(audio), codec.encode(audio))


def test_fingerprint_tells_codecs_apart():
    prints = [fingerprint(codec) for codec in CODECS.values()]
    assert len(set(prints)) == len(prints)
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)
    assert fingerprint(dac()) == fingerprint(dac()) != fingerprint(dac(seed=1))
    for make in dac, encodec:
        codec = make()
        before = fingerprint(codec)
        entry = next(tensor for name, tensor in codec.state_dict().items() if "codebook" in name and tensor.ndim == 2)
        entry[3, 2] += 1e-6
        assert fingerprint(codec) != before


@pytest.mark.parametrize("codec", [*CODECS.values(), make_codec()], ids=[*CODECS, "pocket"])
def test_wrong_shapes_and_codes_are_refused(codec):
    K = codec.num_codebooks
    for audio in torch.zeros(1, 100), torch.zeros(1, 2, 100), torch.zeros(1, 1, 0):
        with pytest.raises(UserError, match="audio of shape"):
            codec.encode(audio)
    for shape in (K, 5), (1, 0, 5), (1, K + 1, 5), (1, K, 0):
        for method in codec.decode, codec.codes_to_latents:
            with pytest.raises(UserError, match="codes of shape"):
                method(torch.zeros(shape, dtype=torch.long))
    for code in -1, codec.codebook_size:
        with pytest.raises(UserError, match=f"{code}.*mask tokens"):
            codec.decode(torch.full((1, K, 2), code))
    for width in 0, codec.latent_width + 1, (K + 1) * codec.latent_width:
        with pytest.raises(UserError, match="latents of shape"):
            codec.latents_to_codes(torch.zeros(1, width, 5))


@pytest.mark.parametrize(
    "changes", [{"audio_channels": 2}, {"chunk_length_s": 1.0, "overlap": 0.01}, {"normalize": True}]
)
def test_encodec_that_needs_more_than_codes_is_refused(changes):
    with pytest.raises(UserError, match="facebook/encodec_24khz"):
        encodec(**changes)


def test_encodec_has_only_the_codebooks_of_a_bandwidth():
    with pytest.raises(UserError, match=r"3 codebooks.*\[1, 2, 4\]"):
        encodec(num_codebooks=3)


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_names_that_lead_nowhere(tmp_path):
    for name in "musicodec", "", "./no/such/folder", str(tmp_path / "absent"), "~/codec":
        with pytest.raises(UserError) as error:
            load_codec(name)
        assert name in one_line(error)
    with pytest.raises(UserError, match=r"no config\.json"):
        load_codec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="'bert', which is no codec"):
        load_codec(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="None, which is no codec"):
        load_codec(tmp_path)


@pytest.mark.slow
def test_hub_cached_and_out_of_reach(tmp_path):
    """What was fetched before loads without asking the network. In a process of its own, since the hub's client reads
    its settings when imported."""
    cached = tmp_path / "hub" / "models--someone--tiny"
    CODECS["dac"].save_pretrained(cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    code = (
        "import socket\n"
        "def refuse(*_): raise SystemExit('a network call')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from ostinato.codecs.base import fingerprint\nfrom ostinato.codecs.load import load_codec\n"
        "from ostinato.utils.errors import UserError\n"
        "codec = load_codec('someone/tiny')\n"
        "print(codec.name, fingerprint(codec))\n"
        "import huggingface_hub.constants as c; c.HF_HUB_OFFLINE = True\n"
        "for name in 'dac', 'someone/else':\n"
        "    try: load_codec(name)\n"
        "    except UserError as error: print(error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}  # that asks the hub of its own accord
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr == "" and done.returncode == 0
    loaded, first, second = done.stdout.splitlines()
    assert loaded == f"someone/tiny {fingerprint(CODECS['dac'])}"
    assert "'descript/dac_44khz'" in first and "'someone/else'" in second
    assert all("check the name and the network" in line for line in (first, second))


def test_pocket_codec_of_the_hub_of_which_the_config_alone_is_cached(tmp_path, monkeypatch):
    """`model_type` caches config.json alone; the weights may then come from a newer revision, and its config too."""
    codec, asked = make_codec(), []
    codec.save_pretrained(tmp_path / "hub")
    refs, cache = {"hub": "new", "cached": "old"}, tmp_path / "cache"
    (cache / "old").mkdir(parents=True)
    shutil.copy(tmp_path / "hub" / "config.json", cache / "old")

    def download(source, filename, local_files_only=False):
        if not local_files_only:
            refs["cached"] = refs["hub"]
            asked.append(filename)
            (cache / refs["cached"]).mkdir(exist_ok=True)
            shutil.copy(tmp_path / "hub" / filename, cache / refs["cached"])
        file = cache / refs["cached"] / filename
        if not file.is_file():
            raise FileNotFoundError(filename)
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("ostinato.codecs.load.model_type", lambda source: "pocket")
    for _ in range(2):
        assert fingerprint(load_codec("someone/pocket")) == fingerprint(codec)
    assert asked == ["model.safetensors", "config.json"]
    refs["hub"] = refs["cached"] = "same"
    (cache / "same").mkdir()
    shutil.copy(tmp_path / "hub" / "config.json", cache / "same")
    assert fingerprint(load_codec("someone/pocket")) == fingerprint(codec)
    assert asked[2:] == ["model.safetensors"]


@pytest.mark.parametrize("hop", [2, 5, 160])
def test_pocket_codec_with_the_least_overlap(hop):
    with pytest.raises(ValueError, match=f"window {hop} must be a multiple of hop {hop}, at least {2 * hop}"):
        PocketConfig(8000, hop, hop)
    codec = PocketCodec(PocketConfig(8000, hop, 2 * hop, 16, 1, 2, 8, 4)).eval()
    assert codec.decode(codec.encode(noise(9 * hop + 1))).isfinite().all()


@pytest.mark.parametrize("name", ["dac", "encodec"])
def test_damaged_folders(name, tmp_path):
    CODECS[name].save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = load_file(weights)
    codebook = next(key for key in whole if "codebook" in key and whole[key].ndim == 2)

    save_file({key: value for key, value in whole.items() if key != codebook}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights") as error:
        load_codec(tmp_path)
    assert codebook in one_line(error)

    save_file(whole | {codebook: whole[codebook][:-1].clone()}, weights, metadata={"format": "pt"})
    with pytest.raises(UserError) as error:
        load_codec(tmp_path)
    assert str(tmp_path) in one_line(error)

    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="copy the folder again") as error:
        load_codec(tmp_path)
    one_line(error)

    weights.unlink()
    with pytest.raises(UserError, match="copy the folder again") as error:
        load_codec(tmp_path)
    one_line(error)


def test_loading_leaves_logging_as_it_was(tmp_path):
    from transformers.utils import logging as transformers_logging

    CODECS["dac"].save_pretrained(tmp_path)
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub").level
    load_codec(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError):
        load_codec(tmp_path)
    assert before == (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
    assert logging.getLogger("huggingface_hub").level == hub


@pytest.mark.parametrize("codec", [*CODECS.values(), make_codec()], ids=[*CODECS, "pocket"])
@pytest.mark.parametrize("n", [1, 2])
def test_latents_of_codes_decode_as_the_codes_do(codec, n):
    codes = torch.randint(codec.codebook_size, (2, n, 9), generator=torch.Generator().manual_seed(0))
    found = codec.decode_latents(codec.codes_to_latents(codes))
    torch.testing.assert_close(found, codec.decode(codes), atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="latents of shape"):
        codec.decode_latents(torch.zeros(1, codec.latent_width + 1, 4))


@torch.no_grad()
def test_a_grown_codec_sounds_as_before_and_looks_less_ahead(tmp_path):
    """`recipes/pocket/2_grow.py`: new codebooks are silent; kernels keep the taps that they still reach."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "pocket"))
    grow = importlib.import_module("2_grow").grow
    torch.manual_seed(0)
    codec = PocketCodec(PocketConfig(8000, 160, 640, 16, 2, 2, 16, 4)).eval()
    audio = torch.randn(1, 1, 8000)
    codes, grown = codec.encode(audio), grow(codec, 4)
    assert torch.equal(grown.encode(audio)[:, :2], codes)
    torch.testing.assert_close(grown.decode(grown.encode(audio)), codec.decode(codes))
    near = grow(codec, 2, lookahead=1)
    assert (near.context, near.lookahead, codec.lookahead) == (12, 4, 8)
    for block in codec.decoder[:-1]:
        block.mix.weight[..., 5:] = 0  # the taps for two and three frames ahead
    torch.testing.assert_close(near.decode(codes), codec.decode(codes))
    codec.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    del about["codec"]["lookahead"]  # as codecs had it that did not know of it
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="lookahead is 1, there 3"):
        load_run(Path(__file__).parents[2] / "configs" / "codec-pocket.yaml", ["model.lookahead=1"], {"init": tmp_path})
    for count, lookahead in ((1, 3), (2, 4), (2, -1)):
        with pytest.raises(UserError, match="ask for"):
            grow(codec, count, lookahead)
