import os

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ostinato.utils.audio import (
    AUDIO_SUFFIXES,
    EmptyAudio,
    check_output,
    loudness_db,
    read_audio,
    stream_audio,
    write_audio,
)
from ostinato.utils.errors import UserError


def tone(seconds=1.0, rate=44100, hz=440.0, level=0.5):
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return level * torch.sin(2 * torch.pi * hz * time)[None].float()


def error_db(got, wanted):
    """Largest difference away from the ends, in dB relative to full scale."""
    return 20 * np.log10(float((got - wanted)[..., 2000:-2000].abs().max()) + 1e-12)


def peak_hz(audio, rate):
    spectrum = torch.fft.rfft(audio[0] * torch.hann_window(audio.shape[-1])).abs()
    return float(spectrum.argmax()) * rate / audio.shape[-1]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_lossless_files_come_back_within_half_a_16_bit_step(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_audio(path, tone(), 44100)
    back = read_audio(path, 44100)
    assert back.shape == (1, 44100) and back.dtype == torch.float32
    assert (back - tone()).abs().max() <= 1.01 / 32768
    assert sf.info(path).subtype == "PCM_16"


def test_vorbis_keeps_length_tone_level_and_comment(tmp_path):
    path = tmp_path / "a.ogg"
    write_audio(path, tone(3.0), 44100, {"comment": "made by a test"})
    info = sf.info(path)
    assert (info.format, info.subtype, info.frames) == ("OGG", "VORBIS", 3 * 44100)
    back = read_audio(path, 44100)
    assert peak_hz(back, 44100) == pytest.approx(440, abs=1)
    assert loudness_db(back) == pytest.approx(loudness_db(tone(3.0)), abs=0.5)
    with sf.SoundFile(path) as file:
        assert file.comment == "made by a test"


def test_two_minutes_of_vorbis_in_one_call(tmp_path):
    # The Vorbis writer crashes the process when it is handed this much at once.
    write_audio(tmp_path / "long.ogg", torch.zeros(120 * 44100), 44100)
    assert sf.info(tmp_path / "long.ogg").frames == 120 * 44100


@pytest.mark.parametrize(
    ("name", "kind", "subtype", "rate"),
    [
        ("a.opus", "OGG", "OPUS", 48000),
        ("a.mp3", "MP3", "MPEG_LAYER_III", 44100),
        ("a.aiff", "AIFF", "PCM_16", 44100),
        ("a.w64", "W64", "FLOAT", 44100),
    ],
)
def test_other_formats_are_read(tmp_path, name, kind, subtype, rate):
    path = tmp_path / name
    with sf.SoundFile(path, "w", rate, 1, subtype, format=kind) as file:
        for block in tone(2.0, rate)[0].split(8192):
            file.write(block.numpy())
    back = read_audio(path, 44100)
    assert abs(back.shape[-1] - 2 * 44100) <= 2500  # mp3 encoders pad
    assert peak_hz(back, 44100) == pytest.approx(440, abs=1)
    assert path.suffix in AUDIO_SUFFIXES


def test_channels_are_averaged(tmp_path):
    left, right = tone(hz=300)[0], tone(hz=700)[0]
    sf.write(tmp_path / "a.wav", torch.stack([left, right], dim=1).numpy(), 44100, subtype="FLOAT")
    assert torch.allclose(read_audio(tmp_path / "a.wav", 44100)[0], (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 32000, 48000])
def test_resampling_keeps_time_and_tone(tmp_path, rate):
    write_audio(tmp_path / "a.wav", tone(2.0), 44100)
    back = read_audio(tmp_path / "a.wav", rate)
    assert back.shape == (1, 2 * rate)
    assert error_db(back, tone(2.0, rate)) < -80


@given(
    rate=st.sampled_from([8000, 16000, 44100, 48000]),
    start=st.floats(0, 1.5),
    seconds=st.floats(0.01, 1.0),
)
@settings(max_examples=40, deadline=None)
def test_a_part_is_exactly_as_long_as_asked_and_in_its_place(tmp_path_factory, rate, start, seconds):
    path = tmp_path_factory.getbasetemp() / "ramp.wav"
    if not path.exists():
        sf.write(path, np.linspace(-0.5, 0.5, 3 * 22050), 22050, subtype="FLOAT")
    part = read_audio(path, rate, start, seconds)
    assert part.shape == (1, round(seconds * rate))
    middle = part.shape[-1] // 2
    if middle > 100:
        assert float(part[0, middle]) == pytest.approx(-0.5 + (start + middle / rate) / 3, abs=1e-3)


def test_a_part_ends_with_the_file(tmp_path):
    write_audio(tmp_path / "a.wav", tone(1.0), 44100)
    assert read_audio(tmp_path / "a.wav", 44100, start=0.75, seconds=1.0).shape == (1, 11025)
    with pytest.raises(UserError, match=r"ends at 1\.00 s"):
        read_audio(tmp_path / "a.wav", 44100, start=2.0)
    with pytest.raises(UserError, match="-1"):
        read_audio(tmp_path / "a.wav", 44100, start=-1.0)


@pytest.mark.parametrize("rate", [44100, 16000, 48000])
@pytest.mark.parametrize("clip_seconds", [0.3, 2.0, 60.0])
def test_streamed_pieces_are_the_whole_file(tmp_path, rate, clip_seconds):
    noise = torch.randn(1, 13 * 44100, generator=torch.Generator().manual_seed(0)) * 0.1
    sf.write(tmp_path / "a.wav", noise[0].numpy(), 44100, subtype="FLOAT")
    pieces = list(stream_audio(tmp_path / "a.wav", rate, clip_seconds))
    assert all(piece.shape == (1, round(clip_seconds * rate)) for piece in pieces[:-1])
    assert 0 < pieces[-1].shape[-1] <= round(clip_seconds * rate)
    assert torch.equal(torch.cat(pieces, dim=1), read_audio(tmp_path / "a.wav", rate))


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="no audio file"):
        read_audio(tmp_path / "none.wav", 44100)
    (tmp_path / "text.wav").write_text("this is not audio\n" * 100)
    (tmp_path / "empty.wav").touch()
    sf.write(tmp_path / "header.wav", np.zeros(0), 44100)
    sf.write(tmp_path / "nan.wav", np.full(1000, np.nan), 44100, subtype="FLOAT")
    for read in (lambda p: read_audio(p, 22050), lambda p: list(stream_audio(p, 22050, 1.0))):
        with pytest.raises(UserError, match="cannot read"):
            read(tmp_path / "text.wav")
        with pytest.raises(EmptyAudio, match="empty"):
            read(tmp_path / "empty.wav")
        with pytest.raises(EmptyAudio, match="no samples"):
            read(tmp_path / "header.wav")
        with pytest.raises(UserError, match="not finite"):
            read(tmp_path / "nan.wav")


def test_a_flac_cut_in_half_is_an_error_or_its_first_half(tmp_path):
    write_audio(tmp_path / "a.flac", torch.randn(1, 44100) * 0.1, 44100)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[: len(data) // 2])
    try:
        assert 0 < read_audio(tmp_path / "a.flac", 44100).shape[-1] < 30000
    except UserError as error:
        assert "a.flac" in str(error)


def test_writing_clips_and_takes_both_shapes(tmp_path):
    write_audio(tmp_path / "a.wav", 3 * tone(level=1.0)[0].double(), 44100)
    back = read_audio(tmp_path / "a.wav", 44100)
    assert back.shape == (1, 44100) and 0.999 < back.max() <= 1 and -1 <= back.min() < -0.999
    with pytest.raises(ValueError, match=r"\[2, 100\]"):
        write_audio(tmp_path / "b.wav", torch.zeros(2, 100), 44100)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.ogg"
    write_audio(path, tone(), 44100)
    before = path.read_bytes()
    with pytest.raises(UserError, match="7000000 Hz"):
        write_audio(path, tone(), 7_000_000)
    with pytest.raises(UserError, match="cannot write"):
        write_audio(path.with_suffix(".flac"), tone(), 7_000_000)  # libsndfile's own refusal
    with pytest.raises(UserError, match="not finite"):
        write_audio(path, torch.full((10,), float("nan")), 44100)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.ogg"]


def test_where_writing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"\.wav, \.flac, \.ogg or \.mp3"):
        write_audio(tmp_path / "a.m4a", tone(), 44100)
    with pytest.raises(UserError, match="no folder"):
        write_audio(tmp_path / "none" / "a.wav", tone(), 44100)
    (tmp_path / "taken.wav").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_audio(tmp_path / "taken.wav", tone(), 44100)
    for name in ("a.m4a", "none/a.wav", "taken.wav"):
        with pytest.raises(UserError, match="cannot write"):
            check_output(tmp_path / name)
    check_output(tmp_path / "a.ogg")
    assert os.listdir(tmp_path) == ["taken.wav"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        write_audio(tmp_path / "a.wav", tone(), 44100)


def test_loudness():
    assert loudness_db(tone(level=1.0)) == pytest.approx(-3.01, abs=0.01)
    assert loudness_db(torch.full((1, 10), 0.1)) == pytest.approx(-20, abs=1e-4)
    assert loudness_db(torch.zeros(1, 10)) == loudness_db(torch.zeros(1, 0)) == float("-inf")
