"""benchmarks/notes.py: notes, keys and pulses whose answers are known."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import notes

pytestmark = pytest.mark.slow


def roll(played, frames=400, seed=None):
    """Probabilities as a perfect transcriber has them, of (start, length, key); with a seed, noise below every
    threshold."""
    rng = np.random.default_rng(seed or 0)
    sounding, begins = (rng.uniform(0, 0.25 if seed else 0, (frames, 88)) for _ in range(2))
    for start, length, key in played:
        sounding[start : start + length, key] = 0.9
        begins[start - 1 : start + 2, key] = 0.6, 0.9, 0.6
    return sounding, begins


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_notes_come_back_as_they_were_played(seed):
    played = [(10, 40, 3), (10, 20, 50), (30, 60, 50), (200, 11, 87), (300, 90, 0)]
    found = notes.decode_notes(*roll(played, seed=seed))
    assert [(n.start, n.length, n.key) for n in found] == sorted(played, key=lambda p: (p[0], p[2]))


def test_a_note_survives_a_short_gap_and_ends_at_a_long_one_and_a_blip_is_none():
    sounding, begins = roll([(10, 100, 20), (10, 100, 30), (50, 6, 40)])
    sounding[60:65, 20] = 0
    sounding[60:80, 30] = 0
    assert [(n.start, n.length, n.key) for n in notes.decode_notes(sounding, begins)] == [(10, 100, 20), (10, 50, 30)]


@pytest.mark.parametrize("tonic", range(12))
def test_the_scale_that_was_played_fits_and_one_wrong_note_of_fifteen_is_counted(tonic):
    scale = [60 + tonic + d for d in (*notes.MAJOR, *(d + 12 for d in notes.MAJOR))]
    assert notes.key_fit(np.array(scale)) == (tonic, 1.0)
    assert notes.key_fit(np.array([*scale, 60 + tonic + 6])) == (tonic, pytest.approx(14 / 15))


def test_figures_of_a_known_clip():
    # C major, a key at a time, every 43 frames (half a second), each sounding for 30.
    keys = [60 - 21 + d for d in (0, 2, 4, 5, 7, 9, 11, 12)]
    real = roll([(10 + 43 * i, 30, key) for i, key in enumerate(keys)], frames=430)
    f = notes.figures(real, real)
    seconds = 430 / notes.FRAME_RATE
    assert f.sounding == f.clear == pytest.approx(8 * 30 / 430) and f.onsets == pytest.approx(8 / seconds)
    assert (f.kept, f.added, f.in_key) == (1, 0, 1) and f.length == pytest.approx(30 / notes.FRAME_RATE)
    assert f.pulse > 0.9
    half = roll([(10 + 43 * i, 30, key) for i, key in enumerate(keys) if i % 2], frames=430)
    f = notes.figures(half, real)
    assert (f.kept, f.added) == (0.5, 0) and math.isnan(f.in_key)  # four notes tell no key
    other = roll([(10 + 43 * i, 30, key + 1) for i, key in enumerate(keys)], frames=430)
    assert (notes.figures(other, real).kept, notes.figures(other, real).added) == (0, 1)


def test_onsets_at_random_have_a_weaker_pulse_than_a_beat_and_silence_has_none():
    rng = np.random.default_rng(0)
    beat, scattered = np.zeros(860), np.zeros(860)
    beat[::43] = 1
    scattered[rng.choice(860, 20, replace=False)] = 1
    assert notes.pulse_clarity(beat, 86) > 0.95
    assert notes.pulse_clarity(scattered, 86) < 0.5
    assert math.isnan(notes.pulse_clarity(np.zeros(860), 86))


def test_the_windows_of_the_network_join_without_a_seam(monkeypatch):
    class Session:  # "hears" key 0 as loud as the first sample of each frame
        def __init__(self, *args, **more):
            pass

        def get_inputs(self):
            return [type("Input", (), {"name": "in"})]

        def run(self, names, fed):
            heard = np.zeros((len(fed["in"]), notes.FRAMES, 88), np.float32)
            heard[:, :, 0] = fed["in"][:, :: notes.HOP, 0][:, : notes.FRAMES]
            return heard, heard

    runtime = type(sys)("onnxruntime")
    runtime.InferenceSession = Session
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    audio = np.arange(100_001, dtype=np.float32)
    sounding, _ = notes.load_network(Path(__file__))(audio)
    assert np.array_equal(sounding[:, 0], audio[:: notes.HOP])
