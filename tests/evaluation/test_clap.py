"""CLAP against laion_clap: fixture and script in tests/originals."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from originals import seeded
from tokenizers import ByteLevelBPETokenizer
from transformers import ClapModel, RobertaTokenizer

from ostinato.evaluation.networks.clap import CLAP, LEFT_OUT, config_of, converted
from ostinato.utils.errors import UserError

FIXTURE = Path(__file__).parent / "originals" / "clap.npz"


def checkpoint(path: Path) -> Path:
    """The seeded weights in a file like LAION's, with numpy 1's numbers in it."""
    fixture = np.load(FIXTURE)
    state = seeded.weights(json.loads(str(fixture["learnt"])), 0)
    state["audio_branch.logmel_extractor.melW"] = fixture["melW"]
    state |= {"logit_scale_a": np.float32(2.6), "logit_scale_t": np.float32(2.6)}
    named = {f"module.{name}": torch.as_tensor(value) for name, value in state.items()}
    torch.save({"epoch": 15, "loss": np.float64(0.5), "state_dict": named}, path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["a calm piano tune"], vocab_size=300, special_tokens=special)
    trained.save_model(str(folder))
    RobertaTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap(tmp_path_factory, tokenizer):
    return CLAP(checkpoint(tmp_path_factory.mktemp("clap") / "weights.pt"), tokenizer)


@torch.no_grad()
def test_as_the_original(clap):
    expected = np.load(FIXTURE)
    heard: dict[str, np.ndarray] = {}

    def hear(name):
        def hook(layer, inputs, output) -> None:
            out = output[0] if isinstance(output, tuple) else output
            heard.setdefault(name, seeded.sample(out.numpy()))

        return hook

    encoder = clap.model.audio_model.audio_encoder
    parts = {"mel": clap.mel, "patch_embed": encoder.patch_embed, "norm": encoder.norm}
    parts |= {f"layers.{i}": layer for i, layer in enumerate(encoder.layers)}
    handles = [layer.register_forward_hook(hear(name)) for name, layer in parts.items()]
    # 1.5: beyond full scale, which the rounding to 16 bits clips; 150000: repeated, then padded.
    found = [clap.embed(torch.from_numpy(1.5 * seeded.audio(samples, 48000, 0)))[0] for samples in (480000, 150000)]
    for handle in handles:
        handle.remove()
    assert set(heard) == set(expected["names"])
    for name, values in zip(expected["names"], expected["layers"], strict=True):
        atol = 1e-3 if name == "mel" else 1e-4 * np.abs(values).max()  # mel: dB
        np.testing.assert_allclose(heard[name], values, atol=atol, err_msg=name)
    np.testing.assert_allclose(torch.stack(found), expected["audio"], atol=1e-5)

    rng, lengths = np.random.RandomState(0), torch.tensor([[77], [9]])
    mask = torch.arange(77)[None] < lengths
    ids = torch.where(mask, torch.from_numpy(rng.randint(3, 300, (2, 77))), 1)
    np.testing.assert_allclose(clap.encode_tokens(ids, mask.long()), expected["text"], atol=1e-5)


def test_every_published_weight_has_a_place():
    shapes = json.loads(str(np.load(FIXTURE)["full"]))
    weights = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    config = config_of(weights)
    assert config.audio_config.depths == [2, 2, 12, 2] and config.text_config.num_hidden_layers == 12
    with torch.device("meta"):
        model = {k: v.shape for k, v in ClapModel(config).state_dict().items() if not LEFT_OUT.search(k)}
    assert {name: value.shape for name, value in converted(weights).items()} == model


def test_text(clap):
    texts = ["a calm piano tune", "", "drums " * 100]
    embedded = clap.embed_text(texts)
    assert embedded.shape == (3, 512)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
    alone = torch.cat([clap.embed_text([text]) for text in texts])
    torch.testing.assert_close(embedded, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("seconds", "starts"), [(25, [0, 10, 15]), (30, [0, 10, 20]), (10.9, [0]), (12, [0, 2])])
def test_all_of_a_clip_is_heard(clap, monkeypatch, seconds, starts):
    """Windows side by side, and one that ends with the clip: of the papers' 25 s the last five, too."""
    monkeypatch.setattr(clap, "encode", lambda windows: windows[:, ::48000])
    clip = torch.arange(round(seconds * 48000)).float() / 48000
    expected = torch.tensor(starts)[:, None] + torch.arange(10.0)
    assert torch.equal(clap.embed(clip), expected)
    assert torch.equal(clap.embed(torch.stack([clip, -clip])), torch.stack([expected, -expected]))


def test_refuses_other_weights(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match="no weights of laion_clap's CLAP"):
        CLAP(path)
