import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ostinato.evaluation import memorisation as m
from ostinato.utils.errors import UserError

few_symbols = st.lists(st.integers(0, 2), max_size=14).map(lambda x: np.array(x, np.int64))


def by_hand(clip, trained):
    """The longest run of `clip` in one clip of `trained`, by looking at every pair of places."""
    best = 0
    for other in trained:
        for i in range(len(clip)):
            for j in range(len(other)):
                length = 0
                while i + length < len(clip) and j + length < len(other) and clip[i + length] == other[j + length]:
                    length += 1
                best = max(best, length)
    return best


@given(st.lists(few_symbols, min_size=1, max_size=4), st.lists(few_symbols, min_size=1, max_size=4))
def test_the_longest_run_is_the_one_found_by_hand(played, trained):
    for clip, run in zip(played, m.longest_runs(played, trained, least=3), strict=True):
        assert run.frames == by_hand(clip, trained)
        if run.frames:
            there = trained[run.clip][run.clip_start : run.clip_start + run.frames]
            np.testing.assert_array_equal(clip[run.start : run.start + run.frames], there)
            assert run.distinct == len(set(there.tolist()))


@given(st.lists(few_symbols, min_size=1, max_size=3), st.lists(few_symbols, min_size=1, max_size=5), st.integers(1, 4))
def test_the_nearest_clip_holds_most_n_grams(played, trained, n):
    def grams(clip):
        return {tuple(clip[i : i + n]) for i in range(len(clip) - n + 1)}

    for clip, (best, share) in zip(played, m.nearest_by_codes(played, trained, n), strict=True):
        wanted = grams(clip)
        shares = [len(wanted & grams(other)) / len(wanted) if wanted else 0.0 for other in trained]
        assert share == pytest.approx(max(shares)) and shares[best] == pytest.approx(share)


def test_a_model_that_plays_its_training_back_is_found_out():
    rng = np.random.default_rng(0)
    trained = [rng.integers(0, 64, 300) for _ in range(60)]
    held_out = [rng.integers(0, 64, 200) for _ in range(30)]
    honest = [rng.integers(0, 64, 200) for _ in range(30)]
    thief = [np.concatenate([rng.integers(0, 64, 50), trained[i][100:250]]) for i in range(30)]
    runs = m.longest_runs(honest + thief + held_out, trained, least=20)
    stolen = runs[30:60]
    assert [run.clip for run in stolen] == list(range(30))
    assert all(150 <= run.frames <= 153 and run.distinct > 40 for run in stolen)
    assert all(run.copied == pytest.approx(0.75, abs=0.02) for run in stolen)
    found = m.compare_runs(stolen, runs[60:], frame_rate=50)
    assert found["beyond"] == 1 and found["median"] == pytest.approx(3, abs=0.1) and found["held_out_copied"] == 0
    assert m.compare_runs(runs[:30], runs[60:], 50)["beyond"] <= 0.2
    near = m.nearest_by_codes(thief, trained)
    assert [clip for clip, _ in near] == list(range(30)) and all(share > 0.7 for _, share in near)


def test_symbols_tell_frames_apart_by_the_first_codebooks():
    codes = torch.tensor([[1, 1, 2], [0, 5, 0], [7, 8, 9]])
    np.testing.assert_array_equal(m.symbols(codes), [1, 1, 2])
    assert len(set(m.symbols(codes, 2, 16).tolist())) == 3
    with pytest.raises(UserError, match="do not have 4"):
        m.symbols(codes, 4)
    with pytest.raises(UserError, match="nothing to compare"):
        m.longest_runs([], [np.arange(3)])


def test_nearest_by_embedding_is_the_largest_cosine():
    rng = np.random.default_rng(0)
    made, trained = rng.standard_normal((5, 8)), rng.standard_normal((37, 8))
    where, value = m.nearest_by_embedding(made, trained, chunk=7)
    np.testing.assert_array_equal(where, (made @ trained.T).argmax(1))
    np.testing.assert_allclose(value, (made @ trained.T).max(1))
