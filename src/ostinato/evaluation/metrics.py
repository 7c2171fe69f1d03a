"""The numbers: Frechet distance, KAD, KL of tags, CLAP score, diversity; each with an interval.

A clip is float [windows, d], its embeddings by a network (see `networks.base`). Sets of clips are sequences, read
again where needed, so that one that loads from disk keeps memory flat however many clips there are.

Every interval is a bootstrap over clips of the evaluated set, the reference held fixed: the middle 95 % of the
replicates. Replicates repeat clips, which alone raises a distance and lowers a diversity (`Score.shift`); left in, it
would push the interval off the number it is to bound, so these are moved until the replicates' mean lies on the value.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

REPLICATES = 100
TAG_FLOOR = 1e-6  # added to the reference's probabilities, as stable-audio-metrics does
KAD_SCALE = 100.0  # as the authors' toolkit prints it
_CHUNK = 2048  # windows handled at once
_PASS = 16  # replicates whose covariances are held at once

ClipEmbeddings = Sequence[np.ndarray]


@dataclass
class Score:
    """A number, the interval around it (None where one clip says nothing of the spread), the clips it is over, and how
    far down the interval was moved: by as much as the replicates' mean lies above the value."""

    value: float
    low: float | None
    high: float | None
    n: int
    shift: float = 0.0
    notes: list[str] = field(default_factory=list)


class Moments:
    """Mean [d] and covariance [d, d] of embeddings seen so far, in float64 and d * d memory."""

    def __init__(self, width: int):
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))

    def add(self, embeddings: np.ndarray) -> None:
        """Take in [n, d], merging as Chan, Golub and LeVeque (1979) so that a large mean costs no digits."""
        x = np.asarray(embeddings, np.float64)
        mean = x.mean(0)
        centred = x - mean
        total = self.count + len(x)
        gap = mean - self.mean
        self.scatter += centred.T @ centred + np.outer(gap, gap) * (self.count * len(x) / total)
        self.mean += gap * (len(x) / total)
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """[d, d] with n - 1 below, as numpy.cov. Raises ValueError for under two embeddings."""
        if self.count < 2:
            raise ValueError(f"a covariance needs two embeddings or more, and there is {self.count}")
        return self.scatter / (self.count - 1)


def moments(clips: Iterable[np.ndarray]) -> Moments:
    """Of all windows of all clips. Raises ValueError for none."""
    total: Moments | None = None
    for clip in clips:
        if total is None:
            total = Moments(clip.shape[1])
        total.add(clip)
    if total is None:
        raise ValueError("no clips")
    return total


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), squared 2-Wasserstein distance of two Gaussians (arXiv 1706.08500,
    equation 6), float64, means [d] and covariances [d, d], of any rank."""
    return _frechet(mean1, cov1, mean2, cov2, _factor(cov2))


def _frechet(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray, factor2: np.ndarray) -> float:
    # With C = A A', tr (C1 C2)^(1/2) is the sum of the singular values of A1' A2: no root of a product that rounding
    # has made indefinite, where scipy.linalg.sqrtm turns complex.
    root = np.linalg.svd(_factor(cov1).T @ factor2, compute_uv=False).sum()
    return max(0.0, float(np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * root))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """A [d, rank] with A A' = covariance; directions that are rounding alone are left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors[:, kept] * np.sqrt(values[kept])


def frechet(clips: ClipEmbeddings, reference: Moments, replicates: int = REPLICATES, seed: int = 0) -> Score:
    """Frechet distance of all windows of `clips` to the reference's (FD on OpenL3, FAD on VGGish or CLAP).

    Fewer windows than dimensions make a covariance that is not of full rank: the distance is still exact for the
    samples, but overstates that of the distributions; warned, and noted in the score.
    """
    made = moments(clips)
    width = len(made.mean)
    notes = []
    for name, count in (("evaluated", made.count), ("reference", reference.count)):
        if count <= width:
            notes.append(
                f"the {name} set has {count} windows for {width} dimensions: its covariance is singular, and the "
                "distance is larger than with more clips; compare only with one over as many"
            )
            warnings.warn(notes[-1], stacklevel=2)
    factor, covariance = _factor(reference.covariance), reference.covariance
    value = _frechet(made.mean, made.covariance, reference.mean, covariance, factor)
    drawn = [
        _frechet(mean, cov, reference.mean, covariance, factor)
        for mean, cov in _redrawn_moments(clips, made.mean, resample(len(clips), replicates, seed))
    ]
    found = _score(value, drawn, len(clips), notes)
    return found if found.low is None else replace(found, low=max(0.0, found.low))


def _redrawn_moments(
    clips: ClipEmbeddings, centre: np.ndarray, weights: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Mean and covariance of each replicate; weights [replicates, clips]; `centre` [d], near the mean, keeps digits."""
    for rows in np.array_split(weights, max(1, -(-len(weights) // _PASS))):
        first = np.zeros((len(rows), len(centre)))
        second = np.zeros((len(rows), len(centre), len(centre)))
        count = np.zeros(len(rows))
        for which, x in _blocks(clips):
            x = x - centre
            for b, row in enumerate(rows[:, which]):
                weighted = row[:, None] * x
                first[b] += weighted.sum(0)
                second[b] += weighted.T @ x
                count[b] += row.sum()
        for s, ss, n in zip(first, second, count, strict=True):
            if n > 1:
                yield centre + s / n, (ss - np.outer(s, s) / n) / (n - 1)


def _blocks(clips: ClipEmbeddings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows of consecutive clips, about `_CHUNK` at a time: number of the clip each is of, and float64 [n, d]."""
    held: list[np.ndarray] = []
    owner: list[np.ndarray] = []
    for i in range(len(clips)):
        held.append(np.asarray(clips[i], np.float64))
        owner.append(np.full(len(held[-1]), i))
        if sum(map(len, held)) >= _CHUNK or i == len(clips) - 1:
            yield np.concatenate(owner), np.concatenate(held)
            held, owner = [], []


def kad(clips: ClipEmbeddings, reference: ClipEmbeddings, replicates: int = REPLICATES, seed: int = 0) -> Score:
    """Kernel audio distance (arXiv 2502.15602): unbiased squared MMD, times 100, with a Gaussian kernel whose bandwidth
    is the median distance between windows of the reference; free of any shape of the distributions, and around 0
    where they are one (it may fall below).

    The bandwidth is the reference's, so that all systems are measured by one kernel (the authors' toolkit takes that of
    its second argument). Raises ValueError for fewer than two windows in either set, or a reference of equal windows.
    """
    sigma = median_distance(reference, seed)
    if sigma == 0:
        raise ValueError("all windows of the reference are alike, which leaves the kernel no width")
    within, sizes = _kernel_sums(clips, clips, sigma)
    across, other = _kernel_sums(clips, reference, sigma)
    if sizes.sum() < 2 or other.sum() < 2:
        raise ValueError("KAD needs two windows or more on either side")
    n, m = sizes, other.sum()
    ref = sum(float(part.sum()) for part in _kernel_rows(reference, reference, sigma))
    ref = (ref - m) / (m * (m - 1))
    pairs = np.outer(n, n)
    inside = np.diag(within) - n  # without each window's pair with itself
    off = within - np.diag(np.diag(within))
    off_pairs = (pairs - np.diag(np.diag(pairs))).astype(np.float64)
    cross = across.sum(1)

    def distance(w: np.ndarray) -> float:
        # A clip drawn twice is no evidence that clips are alike: copies of one are not paired with each other.
        count = w @ off_pairs @ w + w @ (n * (n - 1))
        return KAD_SCALE * ((w @ off @ w + w @ inside) / max(count, 1) + ref - 2 * (w @ cross) / ((w @ n) * m))

    value = distance(np.ones(len(clips)))
    return _score(value, [distance(w) for w in resample(len(clips), replicates, seed)], len(clips))


def median_distance(clips: ClipEmbeddings, seed: int = 0, windows: int = 2000) -> float:
    """Median Euclidean distance between two windows, over at most `windows` of them, sampled by seed."""
    rng = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    each = max(1, -(-windows // max(1, len(clips))))
    for clip in clips:
        rows = rng.permutation(len(clip))[:each]
        kept.append(np.asarray(clip, np.float64)[rows])
    x = np.concatenate(kept)
    x = x[rng.permutation(len(x))[:windows]]
    if len(x) < 2:
        raise ValueError("KAD needs two windows or more on either side")
    return float(np.median(np.sqrt(_squared(x, x)[np.triu_indices(len(x), 1)])))


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T, 0)


def _kernel_rows(left: ClipEmbeddings, right: ClipEmbeddings, sigma: float) -> Iterator[np.ndarray]:
    for _, x in _blocks(left):
        for _, y in _blocks(right):
            yield np.exp(-_squared(x, y) / (2 * sigma**2))


def _kernel_sums(left: ClipEmbeddings, right: ClipEmbeddings, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel over the windows of each pair of clips [len(left), len(right)], and windows of each right."""
    sums = np.zeros((len(left), len(right)))
    sizes = np.zeros(len(right))
    for first, (i, x) in enumerate(_blocks(left)):
        for j, y in _blocks(right):
            k = np.exp(-_squared(x, y) / (2 * sigma**2))
            starts_i = np.flatnonzero(np.diff(i, prepend=-1))
            starts_j = np.flatnonzero(np.diff(j, prepend=-1))
            block = np.add.reduceat(np.add.reduceat(k, starts_i, 0), starts_j, 1)
            sums[np.ix_(i[starts_i], j[starts_j])] += block
            if first == 0:
                np.add.at(sizes, j, 1)
    return sums, sizes


def tag_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logits [windows, classes] of one clip -> probabilities [classes]: the mean over windows, then softmax, since KL
    wants a distribution and AudioSet's sigmoids are none (stable-audio-metrics, `passt_kld`; MusicGen before it)."""
    mean = np.asarray(logits, np.float64).mean(0)
    rising = np.exp(mean - mean.max())
    return rising / rising.sum()


def kl_divergence(made: np.ndarray, real: np.ndarray) -> float:
    """KL(made || real) of two clips' tag probabilities [classes], real + 1e-6: stable-audio-metrics' direction, formula
    and floor. Not bounded below by 0 quite, for that floor."""
    made, real = np.asarray(made, np.float64), np.asarray(real, np.float64)
    sure = made > 0
    return float((made[sure] * (np.log(made[sure]) - np.log(real[sure] + TAG_FLOOR))).sum())


def tag_agreement(made: np.ndarray, real: np.ndarray, top: int = 5) -> float:
    """Share of the `top` likeliest tags of one clip [classes] that are among those of the other."""
    return len(set(np.argsort(made)[-top:]) & set(np.argsort(real)[-top:])) / top


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of [d] and [d]; 0 where one of them is zero."""
    sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / sizes if sizes > 0 else 0.0


def clap_score(audio: np.ndarray, text: np.ndarray) -> float:
    """Cosine of CLAP's embedding of a clip and of its caption [d]; a clip of several windows [windows, d] is the mean
    of them, each of length one."""
    windows = np.atleast_2d(np.asarray(audio, np.float64))
    unit = windows / np.maximum(np.linalg.norm(windows, axis=1, keepdims=True), 1e-12)
    return cosine(unit.mean(0), np.asarray(text, np.float64))


def average(values: Sequence[float], replicates: int = REPLICATES, seed: int = 0) -> Score:
    """Mean of one number a clip (KL, CLAP score, tag agreement). Raises ValueError for none.

    Replicates of a mean lie around it of themselves: the interval is not moved, and stays among the values."""
    if not len(values):
        raise ValueError("no clips")
    x = np.asarray(values, np.float64)
    drawn = resample(len(x), replicates, seed) @ x / len(x)
    return _score(float(x.mean()), list(drawn), len(x), moved=False)


def vendi(clips: ClipEmbeddings, centre: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> Score:
    """Vendi score (arXiv 2210.02410, definition 1) of clip embeddings under the cosine: how many clips unlike each
    other the set amounts to; 1 for one clip over and over, n for n orthogonal ones.

    centre [d], the reference's mean, is taken away first: networks that end in a rectifier put all sound into one
    corner of the space, where every cosine is near 1. Grows with n: compare sets of one size.
    """
    x = unit_clips(clips, centre)

    def effective(w: np.ndarray) -> float:
        rows = x * np.sqrt(w / w.sum())[:, None]
        # The Gram matrix and the covariance have the same eigenvalues; take the smaller.
        values = np.linalg.eigvalsh(rows @ rows.T if len(x) < x.shape[1] else rows.T @ rows)
        values = values[values > 1e-12]
        return float(np.exp(-(values * np.log(values)).sum()))

    drawn = [effective(w) for w in resample(len(x), replicates, seed)]
    return _score(effective(np.ones(len(x))), drawn, len(x))


def mean_cosine(clips: ClipEmbeddings, centre: np.ndarray, replicates: int = REPLICATES, seed: int = 0) -> Score:
    """Mean cosine between two different clips, around the reference's mean (see `vendi`): 1 for one clip over and
    over, near 0 for music as varied as the reference. Raises ValueError for under two clips."""
    x = unit_clips(clips, centre)
    if len(x) < 2:
        raise ValueError("a pairwise cosine needs two clips or more")

    def between(w: np.ndarray) -> float:
        pairs = w.sum() ** 2 - np.square(w).sum()
        return float((np.square(w @ x).sum() - np.square(w) @ np.square(x).sum(1)) / pairs) if pairs else 1.0

    return _score(between(np.ones(len(x))), [between(w) for w in resample(len(x), replicates, seed)], len(x))


def unit_clips(clips: ClipEmbeddings, centre: np.ndarray) -> np.ndarray:
    """Mean embedding of each clip, less `centre` [d], of length 1: [clips, d]."""
    x = np.stack([np.asarray(clip, np.float64).mean(0) for clip in clips]) - centre
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def resample(n: int, replicates: int, seed: int) -> np.ndarray:
    """How often each of n clips is sampled in each replicate: float64 [replicates, n], rows sum to n."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), replicates).astype(np.float64)


def _score(value: float, drawn: Sequence[float], n: int, notes: list[str] | None = None, moved: bool = True) -> Score:
    if n < 2 or len(drawn) < 2:
        return Score(float(value), None, None, n, notes=notes or [])
    low, high = np.quantile(drawn, (0.025, 0.975))
    shift = float(np.mean(drawn)) - value if moved else 0.0
    return Score(float(value), float(low) - shift, float(high) - shift, n, shift, notes or [])
