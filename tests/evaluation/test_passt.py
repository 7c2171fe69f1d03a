"""PaSST against hear21passt: fixture and script in tests/originals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from originals import seeded

from ostinato.evaluation.networks import passt
from ostinato.utils.errors import UserError

FIXTURE = Path(__file__).parent / "originals" / "passt.npz"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Two of the twelve blocks, as in the fixture."""
    path = tmp_path_factory.mktemp("passt") / "weights.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passt, "DEPTH", 2)
        with torch.device("meta"):
            shapes = {name: tuple(value.shape) for name, value in passt.Transformer().state_dict().items()}
        torch.save({name: torch.from_numpy(value) for name, value in seeded.weights(shapes, 0).items()}, path)
        yield passt.PaSST(path)


def test_weights_are_named_as_the_original():
    with torch.device("meta"):
        ours = {name: list(value.shape) for name, value in passt.Transformer().state_dict().items()}
    assert ours == json.loads(str(np.load(FIXTURE)["shapes"]))


@torch.no_grad()
def test_as_the_original(network):
    expected = np.load(FIXTURE)
    clip = torch.from_numpy(seeded.audio(320000, 32000, 0))
    mel = network.mel(clip[None])
    assert mel.shape == (1, 128, 1000)
    np.testing.assert_allclose(seeded.sample(mel.numpy()), expected["mel"], atol=3e-5)

    heard: dict[str, np.ndarray] = {}
    for name, layer in network.net.named_modules():
        layer.register_forward_hook(lambda _, inputs, out, name=name: heard.update({name: seeded.sample(out.numpy())}))
    logits = network.tags(clip).numpy()
    compared = [name for name in expected["names"] if name in heard]
    assert len(compared) == 24
    for name, values in zip(expected["names"], expected["layers"], strict=True):
        if name in heard:
            np.testing.assert_allclose(heard[name], values, atol=3e-5, err_msg=name)
    np.testing.assert_allclose(logits, expected["logits"], atol=3e-5)
    np.testing.assert_allclose(network.embed(clip).numpy(), expected["features"], atol=3e-5)
    two_seconds = network.net.head(network.net(network.mel(clip[None, :64000])))
    np.testing.assert_allclose(two_seconds.numpy(), expected["short"], atol=3e-5)


@given(st.integers(1, 600))
def test_windows_of_stable_audio_metrics(samples):
    rate = 16  # Hz, so that a clip is 0 to 37 s
    clip = torch.arange(1, samples + 1)
    starts = range(0, max(5 * rate, samples - 5 * rate), 5 * rate)  # its loop
    expected = torch.zeros(len(starts), 10 * rate, dtype=torch.long)
    for row, start in zip(expected, starts, strict=True):
        piece = clip[start : start + 10 * rate]
        row[: len(piece)] = piece
    assert torch.equal(passt.ten_seconds(clip, rate), expected)
    assert samples in expected  # the clip's last sample is heard
    assert torch.equal(passt.ten_seconds(torch.stack([clip, 2 * clip]), rate), torch.stack([expected, 2 * expected]))


def test_refuses_other_weights(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"cls_token": torch.zeros(1, 1, 768)}, path)
    with pytest.raises(UserError, match="no weights of passt"):
        passt.PaSST(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="holds no weights alone"):
        passt.PaSST(path)
