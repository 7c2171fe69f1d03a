"""`ostinato play`, on a device that writes down what it is given."""

import sys

import numpy as np
import pytest
import torch

import ostinato
from ostinato import cli
from ostinato.generation.streaming import early

DEVICE = """
import numpy as np

heard, broken, rates, starts = [], [], [], 0

class PortAudioError(Exception):
    pass

def query_devices(kind):
    if "absent" in broken:
        raise PortAudioError("Error querying device -1")
    return {"name": "a notebook"}

class OutputStream:
    def __init__(self, rate, channels, dtype):
        rates.append((rate, channels, dtype))
        if "rate" in broken:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")
    def __enter__(self):
        return self
    def __exit__(self, *error):
        pass
    def write(self, samples):
        assert samples.dtype == np.float32 and samples.flags.c_contiguous
        heard.append(samples.copy())
        return "slow" in broken
"""


@pytest.fixture
def device(tmp_path, monkeypatch):
    (tmp_path / "sounddevice.py").write_text(DEVICE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    import sounddevice

    yield sounddevice
    sys.modules.pop("sounddevice")


def play(monkeypatch, *arguments, code=0):
    monkeypatch.setattr(sys, "argv", ["ostinato", "play", "slow organ", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
        raise SystemExit(0)
    assert (exit.value.code or 0) == code


@pytest.mark.slow
def test_what_is_heard_is_the_stream(device, monkeypatch, capfd):
    play(monkeypatch, "--seconds", "0.8", "--seed", "3")
    model = ostinato.load()
    stream = model.play("slow organ", 3, seconds=0.8, fine=early(model))
    heard = np.concatenate(device.heard)[:, 0]
    np.testing.assert_allclose(heard, torch.cat([*stream], -1)[0].numpy(), atol=2e-5)
    assert device.rates == [(model.codec.sample_rate, 1, "float32")] and capfd.readouterr() == ("", "")
    device.broken.append("slow")
    play(monkeypatch, "--seconds", "0.8")
    assert "pauses: this machine makes music more slowly" in capfd.readouterr().err


@pytest.mark.parametrize("why, words", [("absent", "no loudspeakers here"), ("rate", "loudspeakers failed")])
def test_loudspeakers_that_fail_are_told_in_words(device, monkeypatch, capfd, why, words):
    device.broken.append(why)
    play(monkeypatch, code=2)
    err = capfd.readouterr().err
    assert words in err and "ostinato generate" in err and "Traceback" not in err and not device.heard


def test_without_the_extra_it_says_what_to_install(monkeypatch, capfd):
    monkeypatch.setattr("ostinato.cli.studio.find_spec", lambda name: None)
    play(monkeypatch, code=2)
    assert "pip install 'ostinato[play]'" in capfd.readouterr().err
