import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ostinato.models.patterns import make_pattern
from ostinato.utils.errors import UserError

LENGTHS = {"single": lambda K, T: T, "delay": lambda K, T: K + T - 1, "flatten": lambda K, T: K * T}
CASES = st.tuples(st.sampled_from(list(LENGTHS)), st.integers(1, 9), st.integers(0, 40)).map(
    lambda case: (case[0], 1 if case[0] == "single" else case[1], case[2])
)


def some_codes(K, T, b=2):
    """No two codes alike, so that none can stand in another's place."""
    return torch.randperm(b * K * T, generator=torch.Generator().manual_seed(K * T)).view(b, K, T)


@given(CASES)
def test_encode_and_back(case):
    name, K, T = case
    pattern, codes = make_pattern(name, K), some_codes(K, T)
    steps = pattern.encode(codes, -1)
    assert steps.shape == (2, K, LENGTHS[name](K, T) if T else 0)
    assert pattern.length(T) == steps.shape[2]
    assert torch.equal(pattern.decode(steps), codes)
    placed = [(k, s) for k in range(K) for s in range(steps.shape[2]) if steps[0, k, s] >= 0]
    assert len(placed) == K * T and bool(((steps[0] < 0) == (steps[1] < 0)).all())


@given(CASES)
def test_frame_says_what_encode_does(case):
    """Also beyond the last frame, where `frame` tells of frames that are still to come."""
    name, K, T = case
    pattern, codes = make_pattern(name, K), some_codes(K, T)
    steps = pattern.encode(codes, -1)
    for step in range(steps.shape[2] + K):
        for k in range(K):
            t = pattern.frame(step, k)
            if t is None or t >= T:
                assert step >= steps.shape[2] or (steps[:, k, step] == -1).all()
            else:
                assert torch.equal(steps[:, k, step], codes[:, k, t])


@given(CASES)
def test_only_whole_frames_are_decoded(case):
    """However many steps are there: the frames all of whose codes have come, and no other."""
    name, K, T = case
    pattern, codes = make_pattern(name, K), some_codes(K, T)
    steps = pattern.encode(codes, -1)
    come = [0] * T  # codes of each frame so far
    for length in range(steps.shape[2] + 1):
        whole = come.count(K)
        assert come[:whole] == [K] * whole
        assert torch.equal(pattern.decode(steps[:, :, :length]), codes[:, :, :whole])
        for t in (pattern.frame(length, k) for k in range(K)):
            if t is not None and t < T:
                come[t] += 1


@given(CASES)
def test_codes_stand_in_order(case):
    """Codebook k of a frame never before k - 1 of it (flatten: after it), and a frame never before the one before."""
    name, K, T = case
    pattern = make_pattern(name, K)
    where = {
        (t, k): step for step in range(pattern.length(T)) for k in range(K) if (t := pattern.frame(step, k)) is not None
    }
    for t in range(T):
        for k in range(K):
            assert k == 0 or where[t, k] > where[t, k - 1]
            assert t == 0 or where[t, k] > where[t - 1, k]
            assert name != "flatten" or where[t, k] == K * t + k


def test_unknown_patterns_are_refused():
    with pytest.raises(UserError, match=r"'spiral'.*single, delay, flatten"):
        make_pattern("spiral", 2)
    with pytest.raises(UserError, match=r"one codebook, not 2.*delay"):
        make_pattern("single", 2)
