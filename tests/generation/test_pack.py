"""The model that ships with the package: it plays, offline, and what it was trained on is named."""

import csv
import io
import re
import subprocess
import sys

import pytest
import soundfile
import torch

import ostinato
from ostinato.codecs.base import fingerprint
from ostinato.codecs.load import load_codec
from ostinato.generation.folders import copy_codec
from ostinato.packs import POCKET

pytestmark = pytest.mark.slow

TECHNO, AMBIENT = (
    "A fast, energetic dance techno track with synthesizers and drums, loud",
    "A quiet, atmospheric ambient piece",
)


def centroid(audio: torch.Tensor, rate: int) -> float:
    """Mean frequency of the spectrum, in Hz."""
    level = torch.fft.rfft(audio[0]).abs()
    return float((level * torch.linspace(0, rate / 2, len(level))).sum() / level.sum())


def test_the_pack_plays_what_the_sentence_says():
    model = ostinato.load()
    clips = model.generate([TECHNO] * 4 + [AMBIENT] * 4, seconds=3, seed=0)
    again = model.generate([TECHNO] * 4 + [AMBIENT] * 4, seconds=3, seed=0)
    assert all(torch.equal(one.audio, other.audio) for one, other in zip(clips, again, strict=True))
    for clip in clips:
        assert clip.audio.shape == (1, 3 * clip.sample_rate) and clip.audio.abs().max() <= 1
        assert clip.audio.square().mean().sqrt() > 0.003
    bright = [centroid(clip.audio, clip.sample_rate) for clip in clips]
    assert sum(bright[:4]) > 2 * sum(bright[4:])  # measured over 8 clips of 5 s: 3,863 +- 667 and 878 +- 138 Hz


def test_a_stream_is_the_file_and_begins_before_it_is_done():
    """After a window of 6 s of music."""
    model, seen, seconds = ostinato.load(), [], 7
    clip = model.generate("A calm piano", seconds, seed=3)
    pieces = model.play("A calm piano", 3, seconds=seconds, on_frame=lambda done, count: seen.append((done, count)))
    first = next(pieces)
    assert seen[-1] == (len(seen), 50 * seconds) and len(seen) < 320
    torch.testing.assert_close(torch.cat([first, *pieces], 1), clip.audio, atol=1e-4, rtol=0)
    command = [
        sys.executable,
        "-m",
        "ostinato.cli",
        "generate",
        "A calm piano",
        "--seconds",
        str(seconds),
        "--seed",
        "3",
    ]
    wav = subprocess.run([*command, "--output", "-"], stdout=subprocess.PIPE, check=True).stdout
    audio, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    assert rate == clip.sample_rate
    torch.testing.assert_close(torch.from_numpy(audio)[None], clip.audio, atol=3e-4, rtol=0)


def test_the_codec_of_the_pack_has_a_short_name(tmp_path):
    """Music prepared with it trains a model that carries a copy, and so outlives a newer pack."""
    assert ostinato.load().config["codec_id"] == fingerprint(load_codec("pocket"))
    assert copy_codec("pocket", tmp_path) == "codec"
    assert fingerprint(load_codec(tmp_path / "codec")) == ostinato.load().config["codec_id"]


def test_every_work_is_named_with_a_free_licence():
    works = list(csv.DictReader((POCKET / "ATTRIBUTION.csv").open()))
    assert len(works) == 1341
    for work in works:
        assert work["artist"] and work["licence"] and work["source"] and work["path"], work
        assert not re.search(r"\bN[CD]\b|non.?commercial|no.?deriv", work["licence"], re.IGNORECASE), work
    assert all(file.stat().st_size < 50e6 for file in POCKET.rglob("*.safetensors"))
