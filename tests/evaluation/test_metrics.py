import tracemalloc

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ostinato.evaluation import metrics


def cloud(n, d, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    return mean + rng.standard_normal((n, d)) @ rng.standard_normal((d, d))


def clips_of(x, windows=4):
    return [x[i : i + windows] for i in range(0, len(x), windows)]


def by_scipy(a, b):
    """As the repositories compute it: numpy.cov and scipy's square root of the product."""
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2)
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(root).real


@given(st.integers(1, 12), st.integers(0, 2**16), st.floats(-100, 100))
def test_frechet_is_the_closed_form_of_gaussians(d, seed, shift):
    """Covariances that share their axes: sum of (sigma1 - sigma2)^2 and of the squared gap of the means."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    s1, s2 = rng.uniform(0, 3, (2, d)) * (rng.random((2, d)) < 0.7)  # some directions are flat
    m1, m2 = rng.standard_normal((2, d)) + [[shift], [0]]
    expected = np.square(m1 - m2).sum() + np.square(s1 - s2).sum()
    found = metrics.frechet_distance(m1, (q * s1**2) @ q.T, m2, (q * s2**2) @ q.T)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("n, m, d", [(400, 300, 32), (20, 300, 64), (20, 30, 64), (8, 8, 128)])
def test_frechet_is_scipys_also_for_fewer_windows_than_dimensions(n, m, d):
    a, b = cloud(n, d, 1), cloud(m, d, 2, mean=0.3)
    reference = metrics.moments(clips_of(b))
    if min(n, m) <= d:
        with pytest.warns(UserWarning, match="singular"):
            found = metrics.frechet(clips_of(a), reference, replicates=0)
        assert found.notes
    else:
        found = metrics.frechet(clips_of(a), reference, replicates=0)
        assert not found.notes
    assert found.value == pytest.approx(by_scipy(a, b), rel=1e-6)
    assert found.n == -(-n // 4)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.floats(-1e4, 1e4))
def test_running_moments_are_numpys(sizes, offset):
    x = cloud(sum(sizes), 5, 3) + offset
    parts = np.split(x, np.cumsum(sizes)[:-1])
    running = metrics.moments(parts)
    np.testing.assert_allclose(running.mean, x.mean(0), atol=1e-8)
    np.testing.assert_allclose(running.covariance, np.cov(x, rowvar=False), rtol=1e-7, atol=1e-7)


def test_intervals_hold_the_value_and_what_a_second_draw_gives():
    """95 % intervals over 40 draws of 60 clips hold the long-run value of that many clips, mostly."""
    reference = metrics.moments([cloud(4000, 6, 9)])
    base = np.random.default_rng(9).standard_normal((6, 6))

    def draw(seed):
        rng = np.random.default_rng(1000 + seed)
        return [rng.standard_normal((4, 6)) @ base + 0.5 for _ in range(60)]

    scores = [metrics.frechet(draw(i), reference, seed=i) for i in range(40)]
    usual = np.mean([s.value for s in scores])
    assert all(s.low < s.value < s.high for s in scores)
    assert sum(s.low <= usual <= s.high for s in scores) >= 32
    assert scores[0] == metrics.frechet(draw(0), reference, seed=0)


def test_kad_is_the_unbiased_estimate_written_out():
    a, b = cloud(24, 3, 1), cloud(30, 3, 2, mean=1.0)
    sigma = np.median(scipy.spatial.distance.pdist(b))
    k = lambda x, y: np.exp(-scipy.spatial.distance.cdist(x, y, "sqeuclidean") / (2 * sigma**2))  # noqa: E731
    off = lambda m: (m.sum() - np.trace(m)) / (len(m) * (len(m) - 1))  # noqa: E731
    expected = 100 * (off(k(a, a)) + off(k(b, b)) - 2 * k(a, b).mean())
    score = metrics.kad(clips_of(a, 5), clips_of(b, 7))
    assert score.value == pytest.approx(expected, rel=1e-9)
    assert score.low < score.value < score.high
    alike = cloud(200, 3, 5)
    assert abs(metrics.kad(clips_of(alike[:100]), clips_of(alike[100:])).value) < 3 < score.value


def test_kl_is_stable_audio_metrics():
    """Their line, on vectors: F.kl_div((reference + 1e-6).log(), evaluated) after softmax of the mean of logits."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        made, real = rng.normal(0, 4, (3, 527)), rng.normal(0, 4, (2, 527))
        p, q = (F.softmax(torch.tensor(x).mean(0), 0) for x in (made, real))
        expected = F.kl_div((q + 1e-6).log(), p, reduction="sum", log_target=False)
        found = metrics.kl_divergence(metrics.tag_probabilities(made), metrics.tag_probabilities(real))
        assert found == pytest.approx(float(expected), rel=1e-9)
    certain = np.array([1.0, 0.0])
    assert metrics.kl_divergence(certain, certain) == pytest.approx(0, abs=2e-6)
    assert metrics.kl_divergence(certain, certain[::-1]) == pytest.approx(-np.log(1e-6))


def test_clap_score_is_the_cosine():
    rng = np.random.default_rng(0)
    audio, text = rng.standard_normal((2, 512))
    expected = F.cosine_similarity(torch.tensor(audio)[None], torch.tensor(text)[None], dim=1, eps=1e-8)
    assert metrics.clap_score(audio, 7 * text) == pytest.approx(float(expected))
    assert metrics.clap_score(np.stack([audio, 3 * audio]), text) == pytest.approx(float(expected))
    assert metrics.clap_score(np.zeros(512), text) == 0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(1, 9))
def test_the_interval_of_a_mean_stays_among_its_values(values, replicates):
    score = metrics.average(values, replicates + 1)
    assert min(values) - 1e-9 <= score.low <= score.high <= max(values) + 1e-9 and score.shift == 0


def test_two_channels_of_the_same_double_the_distance():
    """As stable-audio-metrics has mono clips with channels=2: the embedding beside itself."""
    a, b = cloud(60, 8, 1), cloud(50, 8, 2)
    one, two = (
        metrics.frechet(clips_of(np.tile(a, n)), metrics.moments(clips_of(np.tile(b, n))), replicates=0).value
        for n in (1, 2)
    )
    assert two == pytest.approx(2 * one, rel=1e-9)


def test_one_good_clip_over_and_over_is_not_diverse():
    rng = np.random.default_rng(0)
    varied = [rng.standard_normal((3, 16)) + 5 for _ in range(12)]
    centre = np.full(16, 5.0)
    repeated = [varied[0]] * 12
    assert metrics.vendi(repeated, centre).value == pytest.approx(1)
    assert metrics.mean_cosine(repeated, centre).value == pytest.approx(1)
    assert metrics.vendi(varied, centre).value > 6
    assert abs(metrics.mean_cosine(varied, centre).value) < 0.2
    orthogonal = [np.eye(12)[[i]] for i in range(12)]
    assert metrics.vendi(orthogonal, np.zeros(12)).value == pytest.approx(12)
    assert metrics.mean_cosine(orthogonal, np.zeros(12)).value == pytest.approx(0)


class Drawn:
    """Clips that exist while they are looked at, as those read from disk do."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if not 0 <= i < self.count:
            raise IndexError(i)
        return np.random.default_rng(i).standard_normal((20, 64)).astype("f4")


def test_a_thousand_clips_take_no_more_memory_than_a_hundred():
    def peak(count):
        tracemalloc.start()
        metrics.frechet(Drawn(count), reference, replicates=4)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    reference = metrics.moments(Drawn(50))
    few, many = peak(200), peak(1000)
    assert many < 1.1 * few


def test_one_clip_has_no_interval_and_none_no_number():
    score = metrics.average([2.0])
    assert (score.value, score.low, score.high, score.n) == (2.0, None, None, 1)
    for empty in (metrics.average, metrics.moments):
        with pytest.raises(ValueError):
            empty([])
