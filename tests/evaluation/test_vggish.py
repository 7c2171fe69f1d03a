"""VGGish against torchvggish: fixture and script in tests/originals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from originals import seeded

from ostinato.evaluation.networks.vggish import Network, VGGish
from ostinato.utils.errors import UserError

FIXTURE = Path(__file__).parent / "originals" / "vggish.npz"


@pytest.fixture(scope="module")
def vggish(tmp_path_factory):
    path = tmp_path_factory.mktemp("vggish") / "weights.pth"
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Network().state_dict().items()}
    torch.save({name: torch.from_numpy(value) for name, value in seeded.weights(shapes, 0).items()}, path)
    return VGGish(path)


@torch.no_grad()
def test_as_the_original(vggish):
    expected = np.load(FIXTURE)
    clip = torch.from_numpy(seeded.audio(40000, 16000, 0))
    embedding = vggish.embed(clip).numpy()
    assert embedding.shape == expected["embedding"].shape == (2, 128)
    np.testing.assert_allclose(embedding, expected["embedding"], atol=1e-5 * np.abs(expected["embedding"]).max())

    mel = torch.stack([vggish.mel(clip[None, start : start + 15600])[0] for start in (0, 15360)])
    np.testing.assert_allclose([seeded.sample(window) for window in mel.numpy()], expected["mel"], atol=1e-5)
    x = mel[:, None]
    for layer, values in zip(vggish.net.features, expected["layers"], strict=True):
        x = layer(x)
        np.testing.assert_allclose(seeded.sample(x.numpy()), values, atol=1e-5 * np.abs(values).max())


def test_batch_is_one_by_one_and_short_clips_are_padded(vggish):
    clips = torch.from_numpy(np.stack([seeded.audio(9000, 16000, seed) for seed in (1, 2)]))
    together = vggish.embed(clips)
    assert together.shape == (2, 1, 128)
    torch.testing.assert_close(together, torch.stack([vggish.embed(clip) for clip in clips]))
    padded = torch.nn.functional.pad(clips, (0, 15600 - 9000))
    torch.testing.assert_close(together, vggish.embed(padded))


def test_refuses_other_weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, path)
    with pytest.raises(UserError, match="no weights of vggish"):
        VGGish(path)
