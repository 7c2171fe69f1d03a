"""The stand-in taggers against the parts that the originals are made of: fixture and script in tests/originals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from originals import seeded
from transformers.audio_utils import mel_filter_bank

from ostinato.evaluation.networks.base import load_listener
from ostinato.evaluation.networks.taggers import FCN, LABELS_FILE, EfficientAT, MelDecibels, MobileNet
from ostinato.utils.errors import UserError

FIXTURE = Path(__file__).parent / "originals" / "taggers.npz"


def save_seeded(network: torch.nn.Module, path: Path, **given: torch.Tensor) -> Path:
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    torch.save({name: torch.from_numpy(value) for name, value in seeded.weights(shapes, 0).items()} | given, path)
    return path


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """EfficientAT's smallest published width."""
    return save_seeded(MobileNet(0.1), tmp_path_factory.mktemp("taggers") / "mn01_as.pt")


@torch.no_grad()
def test_mobilenet_as_torchvisions(mobilenet):
    expected, net = np.load(FIXTURE), EfficientAT(mobilenet).net
    x = image = torch.from_numpy(seeded.audio(128 * 500, 32000, 0).reshape(1, 128, 500))
    x = x[:, None]
    for layer, values in zip(net.features, expected["layers"], strict=True):
        x = layer(x)
        np.testing.assert_allclose(seeded.sample(x.numpy()), values, atol=1e-5 * np.abs(values).max())
    logits = net.classifier(net(image)).numpy()
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5 * np.abs(expected["logits"]).max())


def torchaudio_front_end() -> dict[str, torch.Tensor]:
    bank = torch.tensor(mel_filter_bank(257, 96, 0, 8000, 16000, mel_scale="htk"), dtype=torch.float32)
    return {"spectrogram.window": torch.hann_window(512), "mel_scale.fb": bank}


def test_mel_decibels_as_torchaudios():
    front = MelDecibels()
    front.load_state_dict(torchaudio_front_end())
    decibels = front(torch.from_numpy(seeded.audio(48000, 16000, 0))[None])[0].numpy()
    assert decibels.shape == (96, 188)
    # The bank of the weights is torchaudio's, made in float32; this one is made in float64: thousandths of a dB.
    np.testing.assert_allclose([seeded.sample(band) for band in decibels], np.load(FIXTURE)["decibels"], atol=1e-2)


def test_as_listeners(mobilenet, tmp_path):
    front = {f"spec.{name}": value for name, value in torchaudio_front_end().items()}
    fcn = save_seeded(FCN(), tmp_path / "jamendo_fcn.pth", **front)
    for spec, width, classes in ((f"efficientat:{mobilenet}", 96, 527), (f"jamendo:{fcn}", 64, 50)):
        listener = load_listener(spec)
        assert listener.proxy and listener.name == spec.partition(":")[0]
        clips = torch.from_numpy(
            np.stack([seeded.audio(listener.sample_rate, listener.sample_rate, i) for i in (1, 2)])
        )
        tags = listener.tags(clips)
        assert tags.shape == (2, 1, classes)
        torch.testing.assert_close(tags[1], listener.tags(clips[1]), rtol=1e-4, atol=1e-4)
        assert listener.embed(clips[0]).shape == (1, width)


def test_jamendo_repeats_a_short_clip_and_leaves_out_the_rest_of_a_long_one(tmp_path):
    front = {f"spec.{name}": value for name, value in torchaudio_front_end().items()}
    listener = load_listener(f"jamendo:{save_seeded(FCN(), tmp_path / 'jamendo_fcn.pth', **front)}")
    clip = torch.from_numpy(seeded.audio(100000, 16000, 0))
    assert torch.equal(listener.windows(clip), clip.tile(5)[None, : 29 * 16000])
    long = clip.tile(10)
    assert torch.equal(listener.windows(long), long[: 58 * 16000].view(2, -1))


def test_labels_are_read_from_beside_the_weights(mobilenet, tmp_path):
    path = tmp_path / "mn01_as.pt"
    path.write_bytes(mobilenet.read_bytes())
    assert EfficientAT(path).labels == ()
    rows = [f'{i},/m/{i},"Sound, number {i}"' for i in range(527)]
    path.with_name(LABELS_FILE).write_text("\n".join(["index,mid,display_name", *rows]))
    assert EfficientAT(path).labels[526] == "Sound, number 526"
    path.with_name(LABELS_FILE).write_text("\n".join(["index,mid,display_name", *rows[:5]]))
    with pytest.raises(UserError, match="names 5 classes"):
        EfficientAT(path)


def test_refuses_other_weights(mobilenet, tmp_path):
    with pytest.raises(UserError, match="no weights of jamendo"):
        load_listener(f"jamendo:{mobilenet}")
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="no weights of an EfficientAT"):
        load_listener(f"efficientat:{path}")
