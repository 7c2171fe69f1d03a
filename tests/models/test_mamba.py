import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.mamba2.configuration_mamba2 import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from ostinato.models.mamba import Mamba2

D = 24


def layer(seed=0, **changes):
    """A small float64 layer none of whose parameters is at a value (0, 1) that would hide its place."""
    torch.manual_seed(seed)
    mamba = Mamba2(**{"width": D, "state": 6, "expand": 2, "head_width": 8, "conv": 4, "chunk": 5} | changes).double()
    with torch.no_grad():
        for p in mamba.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return mamba


def inputs(b, T, seed=1):
    return torch.randn(b, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_state(mamba, b, seed=2):
    state = mamba.empty_state(b)
    g = torch.Generator().manual_seed(seed)
    state.conv = torch.randn(state.conv.shape, generator=g, dtype=torch.float64)
    state.ssm = torch.randn(state.ssm.shape, generator=g, dtype=torch.float64)
    return state


def assert_same(a, b, atol=1e-9):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert torch.allclose(a, b, rtol=0, atol=atol), f"they differ by {(a - b).abs().max():.2e}"


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_forward_is_steps_is_any_split(data):
    mamba = layer(conv=data.draw(st.integers(1, 4)), chunk=data.draw(st.sampled_from((1, 3, 64))))
    b, T = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 20))
    u, begin = inputs(b, T), random_state(mamba, b)
    whole = copy.deepcopy(begin)
    with torch.no_grad():
        wanted = mamba(u, whole)
        state, ys = copy.deepcopy(begin), []
        cuts = data.draw(st.lists(st.integers(1, T), max_size=5).map(sorted))
        for start, end in zip([0, *cuts], [*cuts, T], strict=True):
            if start == end:
                continue
            if data.draw(st.booleans()):
                ys.append(mamba(u[:, start:end], state))
            else:
                ys += [mamba.step(u[:, t], state)[:, None] for t in range(start, end)]
    assert_same(torch.cat(ys, 1), wanted)
    assert_same(state.conv, whole.conv)
    assert_same(state.ssm, whole.ssm)
    assert (whole.ssm - begin.ssm).abs().max() > 1e-3


def test_no_state_is_the_empty_state():
    mamba, u = layer(), inputs(2, 9)
    state = mamba.empty_state(2)
    assert_same(mamba(u), mamba(u, state), 0)
    assert mamba.float().empty_state(1).ssm.dtype == torch.float32
    assert mamba.bfloat16().empty_state(1).ssm.dtype == torch.float32


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_padding_is_not_there(data):
    """Rows of a batch, padded on the left of a fresh state or on the right of any: each is as it is alone."""
    mamba = layer()
    lengths = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(max))
    left, T = data.draw(st.booleans()), max(lengths) + data.draw(st.integers(0, 3))
    rows = [inputs(1, n, seed=10 + i) for i, n in enumerate(lengths)]
    b = len(lengths)
    begin = mamba.empty_state(b) if left else random_state(mamba, b)
    u, mask = 100 * inputs(b, T, seed=3), torch.zeros(b, T, dtype=torch.bool)  # what stands at padding is loud
    places = [slice(T - n, T) if left else slice(0, n) for n in lengths]
    for i, place in enumerate(places):
        u[i, place], mask[i, place] = rows[i][0], True
    state = copy.deepcopy(begin)
    with torch.no_grad():
        y = mamba(u, state, mask)
        for i, n in enumerate(lengths):
            alone = copy.deepcopy(begin)
            alone.conv, alone.ssm = alone.conv[i : i + 1], alone.ssm[i : i + 1]
            if n:
                assert_same(y[i : i + 1, places[i]], mamba(rows[i], alone))
            assert_same(state.conv[i : i + 1], alone.conv)
            assert_same(state.ssm[i : i + 1], alone.ssm)


def test_names_and_shapes_are_mamba_ssm_s():
    """`Mamba2(d_model=1024, d_state=512, headdim=64)` of mamba_ssm, so that its weights load."""
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in Mamba2(1024, 512, 2, 64, 4).named_parameters()}
    assert shapes == {
        "in_proj.weight": (2 * 2048 + 2 * 512 + 32, 1024),
        "conv1d.weight": (2048 + 2 * 512, 1, 4),
        "conv1d.bias": (2048 + 2 * 512,),
        "dt_bias": (32,),
        "A_log": (32,),
        "D": (32,),
        "norm.weight": (2048,),
        "out_proj.weight": (1024, 2048),
    }


@pytest.mark.parametrize(("T", "chunk"), [(1, 16), (16, 16), (37, 16), (37, 256)])
def test_outputs_are_those_of_transformers(T, chunk):
    mamba = layer(state=16, chunk=7).float().eval()
    config = Mamba2Config(
        hidden_size=D,
        num_heads=2 * D // 8,
        head_dim=8,
        state_size=16,
        expand=2,
        conv_kernel=4,
        n_groups=1,
        use_bias=False,
        use_conv_bias=True,
        time_step_limit=(0.0, float("inf")),
        chunk_size=chunk,
        num_hidden_layers=1,
    )
    theirs = Mamba2Mixer(config, layer_idx=0).eval()
    theirs.load_state_dict(mamba.state_dict())
    u = inputs(2, T).float()
    with torch.no_grad():
        wanted = theirs(u)
        assert wanted.abs().mean() > 0.05
        assert_same(mamba(u), wanted, 2e-5)


def test_initialisation_spans_the_time_constants_of_the_paper():
    torch.manual_seed(0)
    mamba = Mamba2(512, 4, 2, 1, 4)  # 1024 heads
    dt, A = torch.nn.functional.softplus(mamba.dt_bias), mamba.A_log.exp()
    assert 0.001 <= dt.min() < 0.0012 and 0.08 < dt.max() <= 0.1001
    assert abs(dt.log().mean().exp().item() - 0.01) < 0.001  # log-uniform: the median is the geometric mean
    assert 1 <= A.min() < 1.2 and 15.8 < A.max() <= 16 and abs(A.mean().item() - 8.5) < 0.5


def test_a_width_that_no_head_divides_is_refused():
    with pytest.raises(ValueError, match="head_width 7"):
        Mamba2(8, 4, 2, 7)
