"""Small runs that several tests train: their stores, and what their results are compared by."""

import json
from pathlib import Path

import soundfile as sf
import torch
from safetensors.torch import load_file
from tiny import POCKET, make_codec, melody

from ostinato.codecs.base import fingerprint
from ostinato.codecs.load import load_codec
from ostinato.data.prepare import prepare
from ostinato.models.lm import LMConfig
from ostinato.training.config import CodecRun, LMRun, Optimisation

CPU = torch.device("cpu")
CAPTIONS = {"rise.wav": "a rising arpeggio", "fall.ogg": "a falling, slower and darker tune"}
SMALL = {"text_width": 384, "codebook_size": 32, "width": 32, "blocks": 1, "heads": 4, "feed_forward": 64}
SMALL |= {"state": 8, "head_width": 16, "chunk": 16, "dropout": 0.1}
WHOLE = {"clip_seconds": 2.0, "progress": False}  # of `prepare`: a clip a file
FLAT = {"learning_rate": 3e-3, "final_learning_rate": 3e-3}  # so that a run of N steps begins one of 2 N


def make_stores(root):
    """Two clips of 2 s and one held out, as codes of a small random codec and as audio."""
    music = root / "music"
    music.mkdir()
    sf.write(music / "rise.wav", melody(2, (0, 4, 7, 12)), 8000)
    sf.write(music / "fall.ogg", melody(2, (7, 3, 0, -5, -9), seed=1), 8000)
    sf.write(music / "held.wav", melody(2, (12, 0), seed=2), 8000)
    rows = [f'{name},{"validation" if name == "held.wav" else "train"},"{text}"' for name, text in CAPTIONS.items()]
    (music / "captions.csv").write_text("\n".join(["path,split,caption", *rows, "held.wav,validation,two notes"]))
    code_store(music, root / "codes", make_codec(), root / "codec")
    prepare(music, root / "audio", sample_rate=8000, **WHOLE)
    return root


def code_store(music, out, codec, place):
    """The store `out`, of `music` in the codes of `codec`, which is kept at `place`."""
    codec.save_pretrained(place)
    kept = load_codec(place)
    prepare(music, out, kept, str(place), fingerprint(kept), **WHOLE)


def strange_store(stores, root):
    """The same music in the codes of another codec, root/other."""
    code_store(stores / "music", root / "strange", make_codec(seed=9), root / "other")
    return root / "strange"


def lm_run(stores, output, model=None, train=None, **changes):
    hyper = {"steps": 4, "batch": 2, "accumulation": 1, "warmup": 2, "precision": "fp32", "log_every": 1} | FLAT
    model = LMConfig(**SMALL | {"num_codebooks": 3, "pattern": "delay"} | (model or {}))
    changes = {"text": "minilm", "clip_seconds": 2.0} | changes
    return LMRun(str(stores / "codes"), str(output), model, train=Optimisation(**hyper | (train or {})), **changes)


def codec_run(stores, output, train=None, **changes):
    hyper = {"steps": 4, "batch": 2, "accumulation": 1, "warmup": 2, "precision": "fp32", "log_every": 1} | FLAT
    changes = {"adversary_from": 1, "model": POCKET, "clip_seconds": 0.5} | changes
    return CodecRun(str(stores / "audio"), str(output), train=Optimisation(**hyper | (train or {})), **changes)


def assert_same_checkpoint(a, b):
    """Bit for bit: weights, buffers and optimizers."""
    assert a.name == b.name and a != b
    for file in sorted(a.glob("*.safetensors")):
        found, wanted = load_file(file), load_file(b / file.name)
        assert found.keys() == wanted.keys()
        other = [name for name in found if not torch.equal(found[name], wanted[name])]
        assert not other, f"{file.name}: {other}"
    found, wanted = (torch.load(folder / "optimizers.pt", weights_only=True) for folder in (a, b))
    assert found.keys() == wanted.keys()
    averages = [states.pop("average", {}) for states in (found, wanted)]
    assert averages[0].keys() == averages[1].keys()
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
    for name in found:
        for one, other in zip(found[name], wanted[name], strict=True):
            assert one["param_groups"] == other["param_groups"]
            assert one["state"].keys() == other["state"].keys() and len(one["state"])
            for i, state in one["state"].items():
                assert all(torch.equal(state[key], other["state"][i][key]) for key in state)


def log_of(output, kind="train"):
    lines = [json.loads(line) for line in (Path(output) / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def lively(stores, output, steps=8, **train):
    """A run with everything random in it: crops, dropout of units and of captions, several micro-batches."""
    hyper = {"steps": steps, "accumulation": 2, "batch": 1, "checkpoint_every": 4, "validate_every": 3, **train}
    changes = {"clip_seconds": 1.0, "text_dropout": 0.5, "prompts": ("a tune",), "sample_seconds": 0.1}
    return lm_run(stores, output, train=hyper, **changes)
