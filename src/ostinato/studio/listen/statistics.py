"""Numbers of a listening test: means with intervals over listeners and prompts, agreement, strengths by pairs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def weights(listeners: int, prompts: int, replicates: int, seed: int) -> tuple[Array, Array]:
    """How often each listener [R, L] and each prompt [R, P] comes in a replicate of the bootstrap.

    Both are drawn again, with replacement, and a rating counts as often as its listener times its prompt: Owen's
    pigeonhole bootstrap (2007) for data crossed by two factors. Ratings of one listener or one prompt go together, so
    that many ratings of few people do not pass for many people.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(float) for n in (listeners, prompts)]
    return drawn[0], drawn[1]


def weighted_sums(values: Array, of_listener: Array, of_prompt: Array) -> Array:
    """Sums [R, ...] of `values` [L, P, ...] over listeners and prompts, weighted by replicates [R, L] and [R, P]."""
    L, P = values.shape[:2]
    by_prompt = (of_listener @ values.reshape(L, -1)).reshape(len(of_listener), P, -1)
    return np.einsum("rp,rpx->rx", of_prompt, by_prompt).reshape(len(of_listener), *values.shape[2:])


def interval(replicates: Array) -> tuple[float, float] | None:
    """The middle 95 % of replicates [R]; None where there are too few to say (one listener, one prompt, no ratings)."""
    finite = replicates[np.isfinite(replicates)]
    if len(finite) < len(replicates) / 2 or np.ptp(finite) == 0:
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def ordinal_alpha(ratings: Array) -> float | None:
    """Krippendorff's alpha for ordinal data of `ratings` [raters, units], NaN where there is none.

    1 is agreement, 0 what chance gives. None where no unit has two ratings, or all are the same. After K. Krippendorff,
    "Computing Krippendorff's Alpha-Reliability" (2011): coincidences of values within units, and a distance of two
    values by how many ratings lie between them.
    """
    values = np.unique(ratings[np.isfinite(ratings)])
    counts = (ratings[..., None] == values).sum(0).astype(float)  # [units, values]
    counts = counts[counts.sum(1) >= 2]
    if len(values) < 2 or not len(counts):
        return None
    pairable = counts.sum(1, keepdims=True) - 1
    observed = (counts / pairable).T @ counts - np.diag((counts / pairable).sum(0))  # coincidences [values, values]
    n = observed.sum(0)
    expected = np.outer(n, n) - np.diag(n)
    upto = np.cumsum(n) - n / 2
    distance = (upto[:, None] - upto[None, :]) ** 2
    chance = (expected * distance).sum() / (n.sum() - 1)
    return float(1 - (observed * distance).sum() / chance) if chance else None


def bradley_terry(wins: Array, prior: float = 0.0, rounds: int = 500) -> Array:
    """Strengths [..., S] of systems, with mean 0, from `wins` [..., S, S]: how often the first was preferred to the
    second, half for either where there was no difference. The difference of two is the log-odds that one is preferred.

    prior: comparisons added to every pair, half won by each, so that a system that always wins stays finite. Maximum
    likelihood by Hunter's MM steps (2004, eq. 3).
    """
    S = wins.shape[-1]
    wins = wins + prior / 2 * (1 - np.eye(S))
    games = wins + np.swapaxes(wins, -1, -2)
    won = wins.sum(-1)
    strength = np.ones(wins.shape[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(rounds):
            both = strength[..., :, None] + strength[..., None, :]
            strength = won / (games / both).sum(-1)
            strength = strength / np.exp(np.log(strength).mean(-1, keepdims=True))
        return np.log(strength)


def reliability(rows: Sequence[tuple[int, str, float]]) -> Array:
    """[raters, units] of (rater, unit, value), NaN where a rater has no value of a unit."""
    raters, units = sorted({r for r, _, _ in rows}), sorted({u for _, u, _ in rows})
    table = np.full((len(raters), len(units)), np.nan)
    at = {r: i for i, r in enumerate(raters)}, {u: i for i, u in enumerate(units)}
    for rater, unit, value in rows:
        table[at[0][rater], at[1][unit]] = value
    return table
