import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ostinato.models.ssd import ssd, ssd_step

NAMES = ("x", "dt", "A", "B", "C", "state")


def reference(x, dt, A, B, C, state):
    """The recurrence of Mamba-2 as it is defined, a frame at a time: differentiable, and nothing else."""
    ys = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t] * A)[:, :, None, None]
        state = decay * state + torch.einsum("bh,bhp,bn->bhpn", dt[:, t], x[:, t], B[:, t])
        ys.append(torch.einsum("bhpn,bn->bhp", state, C[:, t]))
    return torch.stack(ys, 1), state


def problem(b, T, h=2, p=64, n=512, seed=0, dtype=torch.float64):
    """Inputs of a full-size head, with decays from almost none to almost all in one frame."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=dtype)

    dt = torch.nn.functional.softplus(normal(b, T, h) * 2 - 2)
    A = -torch.linspace(0.02, 8, h, dtype=dtype)
    return normal(b, T, h, p), dt, A, normal(b, T, n) / n**0.5, normal(b, T, n), normal(b, h, p, n)


def stepped(x, dt, A, B, C, state):
    state = state.clone()
    ys = [ssd_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], state) for t in range(x.shape[1])]
    return torch.stack(ys, 1), state


def assert_close(found, wanted, atol=1e-9):
    for name, a, b in zip(("y", "state"), found, wanted, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a - b).abs().max() <= atol, f"{name} differs by {(a - b).abs().max():.2e}"


@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("T", [1, 2, 7, 63, 64, 65, 130])
def test_chunked_and_stepped_are_the_recurrence(b, T):
    inputs = problem(b, T, seed=T)
    wanted = reference(*inputs)
    assert_close(stepped(*inputs), wanted)
    for chunk in (1, 2, 3, 8, 16, 64, 100, 1000):
        kept = [v.clone() for v in inputs]
        assert_close(ssd(*inputs, chunk), wanted)
        assert all(torch.equal(v, k) for v, k in zip(inputs, kept, strict=True)), "an input was written to"


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_split_is_the_whole(data):
    b, T, h, p, n = (data.draw(st.integers(1, top)) for top in (3, 90, 4, 5, 7))
    inputs = x, dt, A, B, C, state = problem(b, T, h, p, n, seed=data.draw(st.integers(0, 9)))
    cuts = data.draw(st.lists(st.integers(0, T), max_size=6).map(sorted))
    ys, state = [], state.clone()
    for start, end in zip([0, *cuts], [*cuts, T], strict=True):
        if start == end:
            continue
        piece = x[:, start:end], dt[:, start:end], A, B[:, start:end], C[:, start:end], state
        way = data.draw(st.sampled_from((0, 1, 2, 3, 8, 64, 200)))  # a chunk length, or 0: step by step
        y, state = ssd(*piece, way) if way else stepped(*piece)
        ys.append(y)
    assert_close((torch.cat(ys, 1), state), reference(*inputs))


@pytest.mark.parametrize(("T", "chunk"), [(1, 8), (13, 1), (13, 4), (16, 8), (21, 64)])
def test_gradients_are_those_of_the_recurrence(T, chunk):
    inputs = [v.requires_grad_() for v in problem(2, T, 3, 4, 6, seed=T)]
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(v.shape, generator=g, dtype=v.dtype) for v in reference(*inputs)]

    def gradients(made):
        return torch.autograd.grad(sum((v * w).sum() for v, w in zip(made, weights, strict=True)), inputs)

    wanted = gradients(reference(*inputs))
    for name, a, b in zip(NAMES, gradients(ssd(*inputs, chunk)), wanted, strict=True):
        assert (a - b).abs().max() <= 1e-9, f"gradient of {name} differs by {(a - b).abs().max():.2e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dt", [0.0, 1e-30, 1e3, 1e6])
@pytest.mark.parametrize("mixed", [False, True])
def test_extreme_steps_stay_finite(dtype, dt, mixed):
    x, usual, A, B, C, state = problem(2, 21, 3, 4, 6, dtype=dtype)
    times = torch.full_like(usual, dt)
    if mixed:  # every third frame is an ordinary one
        times[:, ::3] = usual[:, ::3]
    inputs = [v.requires_grad_() for v in (x, times, A * 2, B, C, state)]
    y, after = ssd(*inputs, 8)
    gradients = torch.autograd.grad(y.sum() + after.sum(), inputs)
    for name, v in zip(("y", "after", *NAMES), (y, after, *gradients), strict=True):
        assert v.isfinite().all(), name
    with torch.no_grad():
        wanted = reference(*inputs)
        rounding = torch.finfo(dtype).eps * 500 * (1 + dt)
        assert_close(stepped(*inputs), wanted, rounding)
        if not mixed:
            assert_close((y, after), wanted, rounding)
        elif dtype == torch.float64:  # a small decay beside a great one is a difference of great sums
            assert_close((y, after), wanted, rounding * 100 * (1 + dt))


def test_frames_without_time_are_not_there():
    x, dt, A, B, C, state = problem(3, 40, 2, 4, 6)
    real = torch.rand(40, generator=torch.Generator().manual_seed(5)) < 0.5
    y, after = ssd(x, dt * real[None, :, None], A, B, C, state, 8)
    wanted = reference(x[:, real], dt[:, real], A, B[:, real], C[:, real], state)
    assert_close((y[:, real], after), wanted)
    _, same = ssd(x, dt * 0, A, B, C, state, 8)
    assert torch.equal(same, state)


def test_low_precision_inputs_keep_a_wide_state():
    """bfloat16 frames: outputs in bfloat16, but state and decays in float32, so that errors do not pile up."""
    inputs = problem(1, 512, 2, 8, 16, dtype=torch.float32)
    x, dt, A, B, C, state = inputs
    half = [v.bfloat16() for v in (x, B, C)]
    y, after = ssd(half[0], dt, A, half[1], half[2], state, 64)
    assert y.dtype == torch.bfloat16 and after.dtype == torch.float32
    exact = reference(*(v.double() for v in (half[0], dt, A, half[1], half[2], state)))
    for a, b in zip((y, after), exact, strict=True):
        assert (a - b).abs().max() < 0.02 * b.abs().max()


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation makes, forward or backward."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for v in out if isinstance(out, tuple | list) else (out,):
            if isinstance(v, torch.Tensor):
                self.elements = max(self.elements, v.numel())
        return out


def test_b_and_c_are_shared_by_the_heads():
    """At the paper's size (32 heads, state 512) copies of B and C for each head would be b T h n elements, 16 times
    the largest thing there is to make."""
    b, T, h, p, n, chunk = 1, 256, 32, 64, 512, 64
    inputs = [v.requires_grad_() for v in problem(b, T, h, p, n, dtype=torch.float32)]
    with Largest() as seen:
        y, state = ssd(*inputs, chunk)
        (y.sum() + state.sum()).backward()
    states = b * (T // chunk) * h * p * n
    assert seen.elements <= max(states, b * T * h * chunk, b * T * h * p)
    assert seen.elements < b * T * h * n * p / chunk * 1.01  # the states at chunk borders, not one a frame
    one = problem(b, 8 * chunk, h, 4, n, dtype=torch.float32)  # narrow heads: here states are small
    with Largest() as seen:
        ssd(*one, chunk)
    assert seen.elements < b * 8 * chunk * h * n / 4
