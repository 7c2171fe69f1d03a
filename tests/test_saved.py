"""What version 0.1 saved is read by this one: a store, a run, a model of two stages, each made small and kept here."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from runs import lively
from safetensors.torch import load_file

import ostinato
from ostinato.data.store import open_store
from ostinato.training.trainer import train

pytestmark = pytest.mark.slow

SAVED = Path(__file__).parent / "saved" / "v0.1"


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A copy to work in, with the one codec wherever it was saved; returns what version 0.1 made of it next."""
    shutil.copytree(SAVED, tmp_path, dirs_exist_ok=True)
    for folder in ("model", "run/step-0000004"):
        shutil.copytree(tmp_path / "codec", tmp_path / folder / "codec")
    monkeypatch.chdir(tmp_path)  # it names its files from there
    return load_file("expected.safetensors")


def test_a_store(saved):
    store = open_store("codes")
    assert len(store) == 3 and len(store.split("validation")) == 1
    assert store.codes(0).shape == (3, 100) and store.captions(0)


def test_a_run_goes_on_to_the_same_weights_and_clip(saved, capfd):
    last = train(dataclasses.replace(lively(Path("."), Path("run"), steps=8)))
    assert last.name == "step-0000008" and "resuming from step 4" in capfd.readouterr().err
    weights, wanted = load_file(last / "model.safetensors"), {k[8:]: v for k, v in saved.items() if k[:8] == "weights."}
    torch.testing.assert_close(weights, wanted, atol=1e-5, rtol=1e-4)  # other processors round otherwise
    clip = ostinato.load(last).generate("a tune", 1.0, seed=5)
    assert torch.equal(clip.codes, saved["one.codes"])
    torch.testing.assert_close(clip.audio, saved["one.audio"], atol=1e-4, rtol=1e-3)


def test_a_model_of_two_stages(saved):
    """Its config.json says `tells`, as `prediction_type` was called."""
    assert '"tells"' in Path("model/fine/config.json").read_text()
    clip = ostinato.load("model").generate("a tune", 2.0, seed=5)
    assert torch.equal(clip.codes, saved["two.codes"])
    torch.testing.assert_close(clip.audio, saved["two.audio"], atol=1e-4, rtol=1e-3)
