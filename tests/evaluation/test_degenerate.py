import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import melody

from ostinato.evaluation.degenerate import Faults, count_faults, faults
from ostinato.evaluation.descriptors import describe, onset_strength, tempo

RATE = 16_000
NONE = Faults(False, False, False, False)


def tune(seconds=8, rate=RATE):
    """A melody that does not repeat within the clip."""
    notes = np.random.default_rng(1).permutation(np.arange(-12, 24))[: 4 * seconds]
    return melody(seconds, tuple(notes), rate)


def time(seconds):
    return np.arange(round(seconds * RATE)) / RATE


def clicks(beats, seconds=12, rate=RATE):
    """A noise burst on every beat."""
    rng = np.random.default_rng(0)
    audio = 1e-4 * rng.standard_normal(round(seconds * rate)).astype("f4")
    burst = rng.standard_normal(400) * np.exp(-np.arange(400) / 80)
    for start in np.arange(0.1, seconds - 0.1, 60 / beats):
        audio[round(start * rate) :][:400] += 0.5 * burst
    return audio


def test_each_fault_is_found_and_music_has_none():
    assert faults(tune(), RATE) == NONE
    assert faults(0.1 * np.random.default_rng(0).standard_normal(8 * RATE), RATE) == NONE
    assert faults(np.zeros(8 * RATE), RATE) == Faults(True, False, False, False)
    assert faults(np.concatenate([tune(2), np.zeros(6 * RATE)]), RATE).silence
    steady = 0.3 * np.sin(2 * np.pi * 220 * time(8)) + 0.01 * np.random.default_rng(0).standard_normal(8 * RATE)
    assert faults(steady, RATE) == Faults(False, True, False, False)
    assert faults(tune() + 0.3, RATE) == NONE  # an offset is heard by nobody
    assert faults(np.clip(20 * tune(), -0.7, 0.7), RATE).clipping
    assert faults(np.tile(tune(1)[: RATE * 3 // 4], 11), RATE) == Faults(False, False, False, True)
    stuck = np.concatenate([tune(4), np.tile(tune(1), 4)])  # music, then one bar for ever
    assert faults(stuck, RATE).loop


@settings(max_examples=20)
@given(st.floats(0.01, 0.9), st.integers(0, 10))
def test_faults_do_not_hang_on_loudness_or_where_the_clip_begins(gain, shift):
    music = tune(6)
    audio = gain * np.roll(music / np.abs(music).max(), 997 * shift)
    assert faults(audio, RATE) == NONE


def test_files_are_counted_and_a_broken_one_is_told(tmp_path):
    sf.write(tmp_path / "a.wav", tune(3), RATE)
    sf.write(tmp_path / "b.wav", np.zeros(3 * RATE), RATE)
    (tmp_path / "c.wav").write_bytes(b"no audio")
    found = count_faults(sorted(tmp_path.iterdir()), RATE)
    assert found.clips == 2 and found.counts == {"silence": 1, "hum": 0, "clipping": 0, "loop": 0}
    assert found.files["silence"] == [str(tmp_path / "b.wav")]
    assert list(found.lost) == [str(tmp_path / "c.wav")] and "c.wav" in found.lost[str(tmp_path / "c.wav")]


@settings(max_examples=10)
@given(st.integers(70, 150), st.sampled_from([8000, 16_000, 44_100]))
def test_tempo_and_onsets_of_a_click_track(beats, rate):
    audio = clicks(beats, rate=rate)
    assert tempo(onset_strength(audio, rate)) == pytest.approx(beats, rel=0.02)
    assert describe(audio, rate).onset_rate == pytest.approx(beats / 60, rel=0.1)


def test_brightness_pitch_and_level():
    low, high = (np.sin(2 * np.pi * f * time(2)) for f in (300, 3000))
    noise = np.random.default_rng(0).standard_normal(2 * RATE) * 0.1
    assert describe(low, RATE).centroid == pytest.approx(300, rel=0.1)
    assert describe(high, RATE).centroid == pytest.approx(3000, rel=0.05)
    assert describe(low, RATE).level == pytest.approx(-3.01, abs=0.01)
    assert describe(low, RATE).harmonicity > 0.98
    mixed = describe(0.3 * low + noise, RATE).harmonicity
    assert describe(noise, RATE).harmonicity < 0.5 < mixed < 0.98
    assert describe(0.5 * noise, RATE).harmonicity == pytest.approx(describe(noise, RATE).harmonicity)
    silent = describe(np.zeros(RATE), RATE)
    assert (silent.onset_rate, silent.centroid, silent.harmonicity, silent.tempo) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="too short"):
        describe(np.zeros(10), RATE)
