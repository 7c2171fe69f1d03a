"""Backends of SSD: one that is wrong in any output or gradient is not taken, and the line says why."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny import make_lm

from ostinato.models.mamba import Mamba2
from ostinato.models.ssd import ssd
from ostinato.training import ssd_backend
from ostinato.training.ssd_backend import BACKENDS, refused, use_backend
from ostinato.utils.errors import UserError

CPU = torch.device("cpu")
LAYER = Mamba2(width=16, state=8, head_width=8, chunk=16)


def without_gradient(place):
    def way(*given):
        return ssd(*(v.detach() if i == place else v for i, v in enumerate(given)))

    return way


WRONG = {
    "output": lambda x, *given: ssd(1.2 * x, *given),
    "last state": lambda *given: (ssd(*given)[0], 1.1 * ssd(*given)[1]),
    "gradient of dt": lambda x, dt, *given: ssd(x, dt.detach() + (dt - dt.detach()) / 2, *given),
    "gradient of B": without_gradient(3),
    "fails here": lambda *given: given[99],
    "NaN": lambda *given: (ssd(*given)[0] * float("nan"), ssd(*given)[1]),
}


def test_a_right_one_is_taken():
    assert refused(ssd, LAYER, CPU) == ""


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_one_is_not(what):
    assert (what if what != "NaN" else "output") in refused(WRONG[what], LAYER, CPU)


def test_the_choice_is_told(monkeypatch):
    lm = make_lm("prefix-simba")
    assert use_backend(lm, "auto", CPU) == "SSD by PyTorch"
    assert use_backend(lm, "fla", CPU) == "SSD by PyTorch (fla needs a GPU)"
    assert use_backend(make_lm("cross-transformer"), "auto", CPU) == ""
    with pytest.raises(UserError, match="mamba-ssm"):
        use_backend(lm, "mamba", CPU)
    # As on a card with both installed, of which the first is wrong there.
    monkeypatch.setattr(ssd_backend, "find_spec", lambda name: True)
    monkeypatch.setattr(ssd_backend, "inputs", lambda layer, _, dtype, real=ssd_backend.inputs: real(layer, CPU, dtype))
    monkeypatch.setitem(BACKENDS, "fla", (WRONG["output"], "fla"))
    right = lambda *given: ssd(*given)  # noqa: E731
    monkeypatch.setitem(BACKENDS, "mamba-ssm", (right, "mamba_ssm"))
    assert use_backend(lm, "auto", torch.device("cuda")) == "SSD by mamba-ssm, equal to PyTorch's here"
    assert all(layer.ssd is right for layer in lm.modules() if isinstance(layer, Mamba2))
    assert use_backend(lm, "fla", torch.device("cuda")).startswith("SSD by PyTorch (fla is wrong here (its output")


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("fla") or not find_spec("triton"), reason="needs fla-core and triton")
def test_kernels_in_the_interpreter():
    """fla's Triton kernels, run on this CPU: the reference's outputs and gradients, for layers of any sizes."""
    sizes = [{"width": 64, "state": 64, "head_width": 64, "chunk": 64}, {"width": 24, "state": 12, "head_width": 8}]
    script = Path(__file__).with_name("interpreted.py")
    command, env = [sys.executable, script, json.dumps(sizes)], os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    for off in json.loads(done.stdout):
        assert len(off) == 8 and all(error < 1e-5 for error in off.values()), off


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and none is found here")
@pytest.mark.parametrize("name", BACKENDS)
def test_kernels_on_this_card(name):
    """At the paper's sizes: those that are installed are right, or refused with a reason."""
    layer = Mamba2(width=1024).cuda()
    told = use_backend(layer, name, torch.device("cuda"))
    assert told.startswith(f"SSD by {name}") or f"({name} " in told
