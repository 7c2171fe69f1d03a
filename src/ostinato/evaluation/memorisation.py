"""Does a model play back what it was trained on? Generated codes held against the codes of the training store.

Two questions, each also asked of real music that was not trained on, which repeats itself and others too:
the longest run of coarse codes that stands in a training clip as well (`longest_runs`), and the training clip nearest
in codes (`nearest_by_codes`) or in embeddings (`nearest_by_embedding`). Coarse codes are those of the first codebook,
which carries what is played rather than how it sounds (arXiv 2507.06674, section 2.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ostinato.data.store import Store
from ostinato.utils.errors import UserError

Symbols = Sequence[np.ndarray]  # one clip each: int64 [T], what was played in each frame


@dataclass(frozen=True)
class Run:
    """The longest run of frames of one clip that a training clip has, too. `clip` and `clip_start` (frames) say where;
    `distinct` codes are in it: a held note or silence has one or two, and proves nothing."""

    frames: int
    start: int
    clip: int
    clip_start: int
    distinct: int
    copied: float  # share of the clip's frames that lie in runs of at least `least` frames


def symbols(codes: Tensor | np.ndarray, codebooks: int = 1, codebook_size: int = 1024) -> np.ndarray:
    """codes [K, T] -> int64 [T]: the first `codebooks` codes of each frame as one number. Raises UserError for more
    codebooks than there are."""
    coarse = np.asarray(codes, dtype=np.int64)
    if coarse.ndim != 2 or not 1 <= codebooks <= len(coarse):
        raise UserError(f"codes of shape {list(coarse.shape)} do not have {codebooks} codebooks")
    if codebooks * np.log2(codebook_size) > 62:
        raise UserError(f"{codebooks} codebooks of {codebook_size} are too many to compare: give fewer")
    return codebook_size ** np.arange(codebooks, dtype=np.int64) @ coarse[:codebooks]


def store_symbols(store: Store, codebooks: int = 1) -> list[np.ndarray]:
    """`symbols` of every clip of a store of codes (or of a split of it: `open_store(path).split("train")`)."""
    size = store.info.get("codebook_size", 0)
    return [symbols(store.codes(i), codebooks, size) for i in range(len(store))]


def longest_runs(played: Symbols, trained: Symbols, least: int = 50) -> list[Run]:
    """For each clip of `played` the longest run of frames that stands in one clip of `trained`, exactly.

    All suffixes of both are sorted by prefix doubling (Manber and Myers, 1993) up to the longest clip played; the
    training suffix that agrees longest with a given one is its neighbour in that order, above or below. Takes
    O(n log n) for each doubling: 5 million frames against clips of 500 take about 12 s and 1 GB on one core.
    """
    if not len(trained) or not len(played):
        raise UserError("nothing to compare: there must be clips that were played and clips that were trained on")
    # Marks that end clips: one for training, another for what was played, so that no run goes beyond a clip.
    text, bounds = _joined(trained, -1)
    query, query_bounds = _joined(played, -2)
    n = len(text)
    levels, order = _doublings(np.concatenate([text, query]), max(map(len, played)))
    length = np.zeros(len(query), np.int64)
    place = np.zeros(len(query), np.int64)
    for neighbour in _neighbours(order, n):
        found = _agreement(levels, n + np.arange(len(query)), neighbour)
        better = found > length
        length[better], place[better] = found[better], neighbour[better]
    runs = []
    for clip, start in zip(played, query_bounds, strict=False):
        lengths = length[start : start + len(clip)]
        if not len(clip) or lengths.max() == 0:
            runs.append(Run(0, 0, 0, 0, 0, 0.0))
            continue
        best = int(lengths.argmax())
        where = int(place[start + best])
        owner = int(np.searchsorted(bounds, where, "right")) - 1
        run = clip[best : best + lengths[best]]
        copied = _covered(lengths, least)
        runs.append(Run(len(run), best, owner, where - int(bounds[owner]), len(np.unique(run)), copied))
    return runs


def _joined(clips: Symbols, mark: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips one after another, `mark` after each, and where each begins."""
    lengths = np.array([len(clip) + 1 for clip in clips])
    bounds = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    text = np.full(lengths.sum(), mark, np.int64)
    for clip, start in zip(clips, bounds, strict=True):
        text[start : start + len(clip)] = clip
    return text, bounds


def _doublings(text: np.ndarray, longest: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Rank of the 1, 2, 4, ... symbols that begin at each place among all such, up to `longest` symbols or until all
    differ; and the places in the order of the last."""
    n = len(text)
    levels = [np.unique(text, return_inverse=True)[1].astype(np.int32)]
    order = np.argsort(levels[0], kind="stable")
    width = 1
    while width < longest and levels[-1].max() < n - 1:
        rank = levels[-1].astype(np.int64)
        key = rank * (n + 1)
        key[: n - width] += rank[width:] + 1
        order = np.argsort(key)
        ordered = key[order]
        rank[order] = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]]))
        levels.append(rank.astype(np.int32))
        width *= 2
    return levels, order


def _neighbours(order: np.ndarray, n: int) -> list[np.ndarray]:
    """For each place from n on the place before n next to it in the order, above and below (or the one there is)."""
    seen = np.where(order < n, np.arange(len(order)), -1)
    above = np.maximum.accumulate(seen)
    seen = np.where(order < n, np.arange(len(order)), len(order))
    below = np.minimum.accumulate(seen[::-1])[::-1]
    above, below = np.where(above < 0, below, above), np.where(below == len(order), above, below)
    out = []
    for side in (above, below):
        place = np.empty(len(order), np.int64)
        place[order] = order[side]
        out.append(place[n:])
    return out


def _agreement(levels: list[np.ndarray], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many symbols from places a and from places b on are the same: largest powers of two first."""
    length = np.zeros(len(a), np.int64)
    last = len(levels[0]) - 1
    for power in range(len(levels) - 1, -1, -1):
        rank = levels[power]
        while True:  # the largest power may fit more than once
            same = rank[np.minimum(a + length, last)] == rank[np.minimum(b + length, last)]
            length[same] += 1 << power
            if power < len(levels) - 1 or not same.any():
                break
    return length


def _covered(lengths: np.ndarray, least: int) -> float:
    """Share of frames that lie in a run of at least `least` frames; lengths [T] of the runs that begin at each."""
    edges = np.zeros(len(lengths) + 1, np.int64)
    starts = np.flatnonzero(lengths >= least)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + lengths[starts], -1)
    return float((np.cumsum(edges)[:-1] > 0).mean())


def compare_runs(made: Sequence[Run], held_out: Sequence[Run], frame_rate: float) -> dict[str, float]:
    """The runs of a model's clips against those of real music it was not trained on; lengths in seconds.

    `beyond` is the share of the model's clips whose longest run is longer than 95 of 100 held-out clips have: 0.05
    where the model repeats its training no more than other music does. Clips should be of one length on both sides.
    """
    a, b = (np.array([run.frames for run in runs]) / frame_rate for runs in (made, held_out))
    return {
        "median": float(np.median(a)),
        "longest": float(a.max()),
        "held_out_median": float(np.median(b)),
        "held_out_longest": float(b.max()),
        "beyond": float((a > np.quantile(b, 0.95)).mean()),
        "copied": float(np.mean([run.copied for run in made])),
        "held_out_copied": float(np.mean([run.copied for run in held_out])),
    }


def nearest_by_codes(played: Symbols, trained: Symbols, n: int = 4) -> list[tuple[int, float]]:
    """For each clip of `played` the clip of `trained` that holds most of its n-grams (n frames in a row, each counted
    once), and their share: 1 where the clip is a cut of it."""
    if not len(trained) or not len(played):
        raise UserError("nothing to compare: there must be clips that were played and clips that were trained on")
    text, _ = _joined(trained, -1)
    query, query_bounds = _joined(played, -2)
    grams = np.unique(np.concatenate([text, query]), return_inverse=True)[1].astype(np.int64)
    ranks = grams
    for width in range(1, n):  # the rank of `width` symbols and the next one make that of `width + 1`
        key = ranks * (grams.max() + 2)
        key[:-width] += grams[width:] + 1
        ranks = np.unique(key, return_inverse=True)[1].astype(np.int64)
    ours, theirs = ranks[len(text) :], ranks[: len(text)]
    owner = np.repeat(np.arange(len(trained)), [len(clip) + 1 for clip in trained])
    pairs = np.unique(theirs * len(trained) + owner)  # each n-gram once a clip, in order of the n-gram
    held, clip_of = np.divmod(pairs, len(trained))
    found = []
    for clip, start in zip(played, query_bounds, strict=True):
        wanted = np.unique(ours[start : start + max(0, len(clip) - n + 1)])
        low, high = np.searchsorted(held, wanted, "left"), np.searchsorted(held, wanted, "right")
        places = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)] or [np.zeros(0, int)])
        if not len(wanted) or not len(places):
            found.append((0, 0.0))
            continue
        counts = np.bincount(clip_of[places], minlength=len(trained))
        found.append((int(counts.argmax()), float(counts.max() / len(wanted))))
    return found


def nearest_by_embedding(made: np.ndarray, trained: np.ndarray, chunk: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings [n, d] and [m, d] (`metrics.unit_clips`) -> for each of n the nearest of m, and their cosine."""
    best, where = np.full(len(made), -np.inf), np.zeros(len(made), np.int64)
    for start in range(0, len(trained), chunk):
        cosines = made @ trained[start : start + chunk].T
        nearest = cosines.argmax(1)
        value = cosines[np.arange(len(made)), nearest]
        better = value > best
        best[better], where[better] = value[better], start + nearest[better]
    return where, best
