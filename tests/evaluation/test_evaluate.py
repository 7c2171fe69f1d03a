import csv
import json
import sys

import numpy as np
import pytest
import soundfile as sf
import torch
from test_cli import ostinato, told  # noqa: F401
from tiny import make_codec, make_lm, melody

from ostinato.codecs.base import fingerprint
from ostinato.evaluation.descriptors import log_mel
from ostinato.evaluation.embed import find_clips
from ostinato.evaluation.evaluate import Settings, evaluate
from ostinato.evaluation.generate import clip_codes
from ostinato.evaluation.networks.taggers import MobileNet
from ostinato.evaluation.prompts import load_prompts
from ostinato.evaluation.reporting.tables import PUBLISHED, STAND_INS, tables, write_tables
from ostinato.generation.pipeline import Ostinato
from ostinato.models.text_encoder import load_text_encoder
from ostinato.utils.audio import read_audio
from ostinato.utils.errors import UserError

pytestmark = pytest.mark.slow

NAMES = [f"tune{i}" for i in range(6)]
TUNES = [(0, 4, 7, 12), (0, 3, 7), (5, 2, 9, 11, 0), (12, 0), (0, 7, 9, 4), (2, 11, 6)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model, a stand-in with random weights, real clips and their captions."""
    root = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    torch.save(MobileNet(0.1).state_dict(), root / "ears.pt")
    lm = make_lm(K=3, pattern="delay", codebook_size=32, text_width=384, dtype=torch.float32)
    codec = make_codec()
    config = {"text": "minilm", "codec": "codec", "codec_id": fingerprint(codec)}
    Ostinato(lm, load_text_encoder("minilm"), codec, config).save_pretrained(root / "model")
    (root / "real").mkdir()
    for name, notes in zip(NAMES, TUNES, strict=True):
        sf.write(root / "real" / f"{name}.wav", melody(2, notes), 8000)
    with (root / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "caption"), *((name, f"tune in style {name}") for name in NAMES)])
    return root


def settings(world, **changes):
    return Settings(
        **{"listeners": (f"efficientat:{world / 'ears.pt'}",), "seconds": 2, "replicates": 10, "batch": 4} | changes
    )


def by_name(results):
    return {row["name"]: row for row in results["rows"]}


def test_a_model_the_real_clips_and_these_through_the_codec(world, tmp_path):
    prompts = load_prompts(str(world / "prompts.csv"))
    asked = settings(world, codec=str(world / "model" / "codec"), codebooks=(1, 3))
    results = evaluate([f"mine={world / 'model'}"], prompts, world / "real", tmp_path, asked)
    rows = by_name(results)
    assert list(rows) == ["real", "real, codec, 1 of 3 codebooks", "real, codec, 3 of 3 codebooks", "mine"]
    assert all(row["clips"] == 6 and not row["lost"] for row in rows.values())
    for score in (s for row in rows.values() for s in row["scores"].values()):
        assert score["n"] == 6 and np.isfinite(score["value"])
    fd = {name: row["scores"]["fd/efficientat"] for name, row in rows.items()}
    assert fd["real"]["value"] == pytest.approx(0, abs=1e-6) and "singular" in fd["mine"]["notes"][0]
    assert fd["mine"]["low"] < fd["mine"]["value"] < fd["mine"]["high"]
    assert rows["real"]["scores"]["tags/efficientat"]["value"] == 1
    assert rows["mine"]["about"]["cost"]["audio"] == 12 and rows["mine"]["about"]["cost"]["flops"] > 0
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    text = tables(results)
    assert STAND_INS in text and PUBLISHED not in text and "| mine | 6 | 0 |" in text and "GB" in text
    assert {file.name for file in write_tables(results, tmp_path)} == {"results.md", "metrics-stand-ins.png"}


def test_what_is_there_is_not_made_again_and_an_interruption_changes_nothing(world, tmp_path):
    prompts = load_prompts(str(world / "prompts.csv"))
    target = [f"mine={world / 'model'}"]
    first = evaluate(target, prompts, world / "real", tmp_path, settings(world))
    folder = tmp_path / "clips" / "mine"
    before = {p.name: p.read_bytes() for p in folder.glob("*.wav")}
    for i in (0, 3, 4):
        (folder / f"{prompts.prompts[i].name}.wav").unlink()
    kept = {p: p.stat().st_mtime_ns for p in folder.glob("*.wav")}
    second = evaluate(target, prompts, world / "real", tmp_path, settings(world, batch=1))
    assert {p.name: p.read_bytes() for p in folder.glob("*.wav")} == before
    assert all(p.stat().st_mtime_ns == time for p, time in kept.items())
    assert by_name(second)["mine"]["scores"] == by_name(first)["mine"]["scores"]
    with pytest.raises(UserError, match="made otherwise"):
        evaluate(target, prompts, world / "real", tmp_path, settings(world, seed=1))


def test_bad_clips_are_named_and_counted_and_the_rest_is_evaluated(world, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    sf.write(clips / "tune0.wav", melody(2, TUNES[0]), 8000)
    sf.write(clips / "tune1.wav", melody(2, TUNES[1], 22050), 22050)
    (clips / "tune2.wav").write_bytes(b"RIFF and no more")
    broken = melody(2, TUNES[3])
    broken[500] = np.nan
    sf.write(clips / "tune3.wav", broken, 8000, subtype="FLOAT")
    sf.write(clips / "tune4.wav", melody(0.5, TUNES[4]), 8000)
    sf.write(clips / "stranger.wav", melody(2), 8000)
    prompts = load_prompts(str(world / "prompts.csv"))
    results = evaluate([str(clips)], prompts, world / "real", tmp_path / "out", settings(world))
    row = by_name(results)["clips"]
    assert row["faults"]["clips"] == 2  # as every number of the row
    assert row["clips"] == 2 and all(score["n"] == 2 for score in row["scores"].values())
    assert {name: name in reason or "prompt" in reason for name, reason in row["lost"].items()} == dict.fromkeys(
        ("tune2", "tune3", "tune4", "tune5"), True
    )
    assert "not finite" in row["lost"]["tune3"] and "0.50 s" in row["lost"]["tune4"]
    notes = " ".join(row["notes"])
    assert "stranger" in notes and "22050 Hz" in notes and "tune1.wav" in notes
    text = tables(results)
    assert "| clips | 2 | 4 |" in text and "tune3.wav" in text


def test_pairs_that_do_not_match_are_told(world, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("tune0", "unknown"):
        sf.write(clips / f"{name}.wav", melody(2), 8000)
    row = by_name(evaluate([str(clips)], None, world / "real", tmp_path / "out", settings(world)))["clips"]
    assert row["scores"]["kl/efficientat"]["n"] == 1 and row["scores"]["fd/efficientat"]["n"] == 2
    assert "unknown" in " ".join(row["notes"])
    # Where nothing matches, too; and nothing can be made of no recordings.
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    sf.write(strangers / "other.wav", melody(2), 16000)
    prompts = load_prompts(str(world / "prompts.csv"))
    rows = by_name(evaluate([str(world / "real")], prompts, strangers, tmp_path / "out", settings(world)))
    assert list(rows) == ["real"] and "kl/efficientat" not in rows["real"]["scores"]
    notes = " ".join(rows["real"]["notes"])
    assert "6 clips have no recording" in notes and "6 of 6 clips are at 8000 Hz where most of the reference" in notes
    with pytest.raises(UserError, match=r"'other'.*named after a prompt"):
        evaluate([], prompts, strangers, tmp_path / "out", settings(world, codebooks=(1,)))


def test_what_a_thief_plays_is_found_in_the_store(world, tmp_path):
    from ostinato.data.prepare import prepare

    music = tmp_path / "music"
    music.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        sf.write(music / f"song{i}.wav", melody(2, tuple(rng.integers(-12, 12, 8)), seed=i), 8000)
    table = ["path,split", *(f"song{i}.wav,{'train' if i < 6 else 'test'}" for i in range(8))]
    (music / "captions.csv").write_text("\n".join(table))
    from ostinato.codecs.load import load_codec
    from ostinato.data.store import open_store

    codec = load_codec(str(world / "model" / "codec"))
    prepare(music, tmp_path / "store", codec, str(world / "model" / "codec"), fingerprint(codec), clip_seconds=2)
    thief = tmp_path / "thief"
    (thief / "codes").mkdir(parents=True)
    store = open_store(tmp_path / "store").split("train")
    for i in range(3):
        codes = store.codes(i)
        sf.write(thief / f"clip{i}.wav", codec.decode(codes[None])[0, 0].clamp(-1, 1).numpy(), 8000)
        np.save(thief / "codes" / f"clip{i}.npy", codes.numpy())
    clips = find_clips(thief)
    kept, path = store.codes(0).numpy(), clips.files["clip0"]
    assert np.array_equal(clip_codes(clips, codec, 2)["clip0"], kept)
    clips.about["codec_id"] = "another"  # whose codes mean something else
    again = codec.encode(read_audio(path, codec.sample_rate)[None])[0].numpy()
    assert np.array_equal(clip_codes(clips, codec, 2)["clip0"], again) and not np.array_equal(again, kept)
    asked = settings(world, store=tmp_path / "store")
    results = evaluate([str(thief), f"honest={world / 'real'}"], None, world / "real", tmp_path / "out", asked)
    rows = by_name(results)
    found = rows["thief"]["memorisation"]
    assert found["runs"]["median"] == pytest.approx(2) and found["runs"]["beyond"] == 1
    assert found["nearest_codes"] == pytest.approx(1) and found["nearest/efficientat"]["mean"] > 0.99
    assert {run["training_clip"] for run in found["longest"]} == {f"song{i}.wav#0.000" for i in range(3)}
    assert rows["honest"]["memorisation"]["runs"]["median"] < 2
    assert "held-out music" in tables(results)


def test_drift_follows_the_clip_in_windows_of_ten_seconds(world, tmp_path):
    clips = tmp_path / "long"
    clips.mkdir()
    for i in range(3):
        tune = melody(25, TUNES[i])
        tune[20 * 8000 :] = 0.3 * np.random.default_rng(i).standard_normal(5 * 8000)
        sf.write(clips / f"tune{i}.wav", tune, 8000)
    asked = settings(world, seconds=30, drift=True, metrics=("fd",))
    (row,) = evaluate([str(clips)], None, None, tmp_path / "none", asked)["rows"]
    assert row["drift"] == [] and row["clips"] == 3  # without a reference there is nothing to be far from
    rows = by_name(evaluate([str(clips)], None, clips, tmp_path / "out", asked))
    windows = rows["long"]["drift"]
    assert [w["start"] for w in windows] == [0, 10, 20] and [w["clips"] for w in windows] == [3, 3, 3]
    values = [w["scores"]["fd/efficientat"]["value"] for w in windows]
    assert values[2] > max(values[:2])


def test_mistakes_are_told_in_one_line(world, tmp_path, told, monkeypatch):  # noqa: F811
    (tmp_path / "empty").mkdir()
    out = ("--output", tmp_path / "out")
    ears = ("--listener", f"efficientat:{world / 'ears.pt'}")
    assert "empty has no audio files" in told("evaluate", tmp_path / "empty", *ears, *out)
    assert "--prompts" in told("evaluate", world / "model", *ears, *out)
    assert "is not a folder here" in told("evaluate", tmp_path / "nowhere", *ears, *out)
    assert "windows of 10 s" in told("evaluate", world / "real", "--drift", "--seconds", 4, *ears, *out)
    assert "did you mean 'kad'" in told("evaluate", world / "real", "--metrics", "kda", *ears, *out)
    assert "did you mean 'clap'" in told("evaluate", world / "real", "--listener", "clop", *out)
    assert "1,9" in told("evaluate", world / "real", "--codebooks", "x", *ears, *out)
    assert "nothing to evaluate" in told("evaluate", *ears, *out)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        line = told("evaluate", world / "model", "--prompts", world / "prompts.csv", *ears, *out)
    assert "matplotlib" in line and not (tmp_path / "out" / "clips").exists()
    sf.write(tmp_path / "empty" / "other.wav", melody(2), 8000)
    line = told("evaluate", tmp_path / "empty", "--prompts", world / "prompts.csv", *ears, *out)
    assert "named after a prompt" in line and "'other'" in line


def test_the_command_prints_the_table(world, tmp_path, capfd):
    ears = f"efficientat:{world / 'ears.pt'}"
    out = tmp_path / "out"
    ostinato("evaluate", world / "real", "--reference", world / "real", "--listener", ears, "--seconds", 2, "-o", out)
    shown = capfd.readouterr().out
    assert shown.strip() == (out / "results.md").read_text().strip() and "FD (efficientat)" in shown


class MelEars:
    """A listener that hears level by mel band: the mean of each half second's log-mel frames."""

    name, sample_rate, window, proxy = "efficientat", 22050, 0.5, True

    def embed(self, audio):
        halves = audio[: len(audio) // 11025 * 11025].reshape(-1, 11025).numpy()
        return torch.from_numpy(np.stack([log_mel(half, 22050, 1024, 512).mean(0) for half in halves]))


def test_a_metric_ranks_music_codec_coarse_codes_and_noise(tmp_path, monkeypatch):
    """The pack's codec on made-up tunes; docs/evaluation.md has real music and a real network."""
    monkeypatch.setattr("ostinato.evaluation.evaluate.load_listener", lambda spec, device="cpu": MelEars())
    rng = np.random.default_rng(1)
    for folder in ("real", "noise"):
        (tmp_path / folder).mkdir()
    for i in range(8):
        tune = melody(4, tuple(rng.integers(-12, 24, 16)), 22050, seed=i)
        sf.write(tmp_path / "real" / f"{i}.wav", tune, 22050)
        sf.write(tmp_path / "noise" / f"{i}.wav", tune.std() * rng.standard_normal(len(tune)), 22050)
    asked = settings(tmp_path, seconds=4, metrics=("kad",), codec="pocket", codebooks=(12, 1))
    rows = evaluate([str(tmp_path / "noise")], None, tmp_path / "real", tmp_path / "out", asked)["rows"]
    values = [row["scores"]["kad/efficientat"]["value"] for row in rows]
    assert values == sorted(values) and len(set(values)) == 4, values


class Ears(torch.nn.Module):
    """A listener that reads: spectra of 0.5 s, and letters counted, into one space of 26."""

    name, sample_rate, window, proxy = "clap", 8000, 0.5, False

    def __init__(self):
        super().__init__()
        self.to_space = torch.nn.Linear(2001, 26, bias=False).requires_grad_(False)

    def embed(self, audio):
        return self.to_space(torch.fft.rfft(audio[: len(audio) // 4000 * 4000].reshape(-1, 4000)).abs())

    def embed_text(self, texts):
        return torch.tensor([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts]).float()


@pytest.mark.parametrize(
    "name, expected", [("mine", ["clap", "fad", "kad", "vendi", "cosine"]), ("attm", ["clap", "fad"])]
)
def test_a_network_that_reads_scores_sentences(world, tmp_path, monkeypatch, name, expected):
    torch.manual_seed(0)
    ears = Ears()
    monkeypatch.setattr("ostinato.evaluation.evaluate.load_listener", lambda spec, device="cpu": ears)
    (tmp_path / "mine.csv").write_bytes((world / "prompts.csv").read_bytes())
    spec = str(tmp_path / "mine.csv") if name == "mine" else f"attm:{world / 'prompts.csv'}"
    prompts = load_prompts(spec)
    asked = settings(world, listeners=("clap",))
    results = evaluate([str(world / "real")], prompts, None, tmp_path / "none", asked)
    assert list(by_name(results)["real"]["scores"]) == ["clap/clap"]  # all that needs no reference
    other = tmp_path / "other"
    other.mkdir()
    for i, stem in enumerate(NAMES):
        sf.write(other / f"{stem}.wav", melody(2, TUNES[i], seed=9), 8000)
    results = evaluate([str(other)], prompts, world / "real", tmp_path / "out", asked)
    found = by_name(results)["other"]["scores"]
    assert sorted(found) == sorted(f"{metric}/clap" for metric in expected)
    audio = {s: ears.embed(torch.tensor(sf.read(other / f"{s}.wav", dtype="float32")[0])) for s in NAMES}
    cosines = [
        torch.nn.functional.cosine_similarity(
            torch.nn.functional.normalize(audio[p.name], dim=1).mean(0), ears.embed_text([p.text])[0], dim=0
        )
        for p in prompts.prompts
    ]
    assert found["clap/clap"]["value"] == pytest.approx(float(sum(cosines)) / 6, abs=1e-5)  # loudness is taken out
    assert PUBLISHED in tables(results) and STAND_INS not in tables(results)
