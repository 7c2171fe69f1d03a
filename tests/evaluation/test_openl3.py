"""OpenL3 against the original (fixture and script in tests/originals), and what its loader refuses."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from originals import seeded
from torch import nn

from ostinato.evaluation.networks.openl3 import OpenL3
from ostinato.utils.errors import UserError

h5py = pytest.importorskip("h5py")
FIXTURE = Path(__file__).parent / "originals" / "openl3.npz"


def write_keras(path: Path, count: int | None = None) -> Path:
    """The seeded weights of the first `count` layers, or all, as Keras has them: kernels [height, width, in, out]."""
    from ostinato.evaluation.networks.openl3 import layers

    owners = [layer for layer in layers() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)][:count]
    shapes = {
        f"{i}.{name}": tuple(value.shape)
        for i, layer in enumerate(owners)
        for name, value in layer.state_dict().items()
        if name != "num_batches_tracked"
    }
    made = seeded.weights(shapes, 0)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["input"] + [f"layer{i}" for i in range(len(owners))]
        file.create_group("input").attrs["weight_names"] = np.array([], "S1")
        for i in range(len(owners)):
            group, own = file.create_group(f"layer{i}"), {k: made[k] for k in shapes if k.startswith(f"{i}.")}
            group.attrs["weight_names"] = list(own)
            for name, value in own.items():
                group[name] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    return path


@pytest.fixture(scope="module")
def openl3(tmp_path_factory):
    return OpenL3(write_keras(tmp_path_factory.mktemp("openl3") / "weights.h5"))


@pytest.mark.slow
@torch.no_grad()
def test_as_the_original(openl3):
    expected = np.load(FIXTURE)
    clip = torch.from_numpy(seeded.audio(50001, 44100, 0))
    windows = openl3.windows(clip[None])[0].numpy()
    assert len(windows) == len(expected["windows"]) == 3
    np.testing.assert_allclose([seeded.sample(window) for window in windows], expected["windows"], atol=2e-6)

    x = openl3.mel(torch.from_numpy(seeded.audio(96000, 48000, 0).reshape(2, 48000)))[:, None]
    assert x.shape == (2, 1, 256, 199) and expected["names"][0] == "Sequential"
    np.testing.assert_allclose(seeded.sample(x.numpy()), expected["layers"][0], atol=1e-4)  # dB
    for layer, name, values in zip(openl3.net, expected["names"][1:], expected["layers"][1:], strict=True):
        x = layer(x)
        found = seeded.sample(x.numpy())
        np.testing.assert_allclose(found, values, atol=1e-5 * np.abs(values).max(), err_msg=str(name))

    # All of it, with bands that are empty after resampling, where either hears its own rounding.
    embedding = openl3.embed(clip).numpy()
    assert embedding.shape == (3, 512)
    np.testing.assert_allclose(embedding, expected["embedding"], atol=5e-3 * np.abs(expected["embedding"]).max())


def test_batch_is_one_by_one(openl3):
    clips = torch.from_numpy(np.stack([seeded.audio(20000, 44100, seed) for seed in (1, 2)]))
    together = openl3.embed(clips)
    assert together.shape == (2, 1, 512)  # shorter than a window: padded
    alone = torch.stack([openl3.embed(clip) for clip in clips])
    # As above: in bands that are empty after resampling a batch hears another rounding than a clip on its own.
    assert (together - alone).abs().max() < 0.05 * (alone[0] - alone[1]).abs().max()


def test_refuses_other_weights(tmp_path):
    path = write_keras(tmp_path / "weights.h5", count=5)
    with pytest.raises(UserError, match="no weights of OpenL3"):
        OpenL3(path)
    packed = tmp_path / "weights.h5.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:1000])
    with pytest.raises(UserError, match="cannot read the weights"):
        OpenL3(packed)
