"""A store made clip by clip, in batches over several files, and by other processes is one store."""

import pytest
import soundfile as sf
import torch
from test_data import RATE, collection, contents, music
from tiny import make_codec
from transformers import DacConfig
from typer.testing import CliRunner

import ostinato.data.prepare as data
from ostinato.cli import app
from ostinato.codecs.base import fingerprint
from ostinato.codecs.dac import DAC
from ostinato.data.prepare import prepare
from ostinato.data.store import shard_files
from ostinato.utils.errors import UserError


def make_dac():
    torch.manual_seed(0)
    sizes = {"encoder_hidden_size": 8, "hidden_size": 16, "decoder_hidden_size": 16, "codebook_size": 32}
    ratios = {"downsampling_ratios": [4, 5, 8], "upsampling_ratios": [8, 5, 4], "hop_length": 160}
    return DAC(DacConfig(**sizes, **ratios, n_codebooks=3, codebook_dim=4, sampling_rate=RATE))


@pytest.fixture
def folder(tmp_path):
    """Short files and one long, of several lengths, in several folders; a broken and a silent one among them."""
    collection(tmp_path / "music", [f"{n % 2}/{n:02}.wav" for n in range(7)], 1.0)
    sf.write(tmp_path / "music" / "0" / "long.wav", music(7.3, 9), RATE)
    sf.write(tmp_path / "music" / "0" / "zsilent.wav", music(2.0, 9) * 1e-5, RATE)
    (tmp_path / "music" / "1" / "01.wav").write_bytes(b"RIFF but no more")
    return tmp_path / "music"


def prepared(folder, out, codec, **changes):
    asked = {"clip_seconds": 1.0, "min_seconds": 0.25, "codec_id": fingerprint(codec), "progress": False} | changes
    report = prepare(folder, out, codec, **asked)
    return report, contents(out), [file.read_bytes() for file in shard_files(out)]


@pytest.mark.parametrize("make", [make_codec, make_dac])
def test_batches_over_files_give_the_codes_of_single_clips(make, folder, tmp_path):
    codec = make()
    report, clips, shards = prepared(folder, tmp_path / "one", codec)
    assert report.outcomes == {"ok": 7, "broken": 1, "silent": 1} and len({len(c[0]) for _, c in clips.values()}) > 3
    for batch in (3, 64):
        assert prepared(folder, tmp_path / str(batch), codec, batch=batch) == (report, clips, shards)


@pytest.mark.slow
def test_a_process_gives_the_store_of_none(folder, tmp_path):
    codec = make_codec()
    wanted = prepared(folder, tmp_path / "one", codec)
    assert prepared(folder, tmp_path / "two", codec, batch=2, workers=1, devices=("cpu",)) == wanted


def test_an_interrupted_run_of_batches_goes_on(folder, tmp_path, monkeypatch):
    """A file whose clips were not all encoded is done again; none is twice in the store."""
    codec = make_codec()
    wanted = prepared(folder, tmp_path / "one", codec)[1]
    encode, calls = type(codec).encode, []

    def interrupted(self, audio):
        calls.append(audio)
        if len(calls) in (7, 15):
            raise KeyboardInterrupt
        return encode(self, audio)

    monkeypatch.setattr(data, "SHARD_CLIPS", 2)
    monkeypatch.setattr(type(codec), "encode", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prepared(folder, tmp_path / "many", codec, batch=3)
    assert len(shard_files(tmp_path / "many")) > 0
    assert prepared(folder, tmp_path / "many", codec, batch=3)[1] == wanted


def test_silence_and_least_length_are_settings(folder, tmp_path):
    codec = make_codec()
    clips = prepared(folder, tmp_path / "all", codec, min_seconds=1.0, silence_db=-200.0)[1]
    assert {row["seconds"] for row, _ in clips.values()} == {1.0}
    assert "0/zsilent.wav#1.000" in clips
    for option, value in (("--batch", "0"), ("--workers", "-1"), ("--silence-db", "nan")):
        result = CliRunner().invoke(app, ["prepare", str(folder), str(tmp_path / "no"), option, value])
        assert isinstance(result.exception, UserError) and option in str(result.exception)
    with pytest.raises(UserError, match="silence_db"):
        prepared(folder, tmp_path / "all", codec, min_seconds=1.0)
