"""Which metric is computed on which network's embeddings or tags, and how."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ostinato.evaluation import metrics
from ostinato.evaluation.embed import Embeddings
from ostinato.evaluation.metrics import Score
from ostinato.evaluation.prompts import PromptSet


@dataclass(frozen=True)
class Metric:
    """The listeners a metric is defined on (stand-ins last), whether less is better (None: neither), and what it asks
    for: a reference set, pairs with real clips, sentences."""

    title: str
    listeners: tuple[str, ...]
    less: bool | None
    needs: str


STAND_INS = ("efficientat", "jamendo")
METRICS = {
    "fd": Metric("FD", ("openl3", *STAND_INS), True, "reference"),
    "kl": Metric("KL", ("passt", *STAND_INS), True, "pairs"),
    "clap": Metric("CLAP", ("clap",), False, "sentences"),
    "fad": Metric("FAD", ("vggish", "clap"), True, "reference"),
    "kad": Metric("KAD", ("clap", *STAND_INS), True, "reference"),
    "tags": Metric("tags shared", ("passt", *STAND_INS), False, "pairs"),
    "vendi": Metric("Vendi", ("clap", *STAND_INS), False, "reference"),
    "cosine": Metric("cosine within", ("clap", *STAND_INS), None, "reference"),
}
# The academic text-to-music challenge scores by CLAP, and by FAD in the space of the same CLAP.
ATTM = {"fad": ("clap",), "clap": ("clap",)}


class Ground:
    """What a listener heard in the reference: its clips, their moments, and the mean of the clips' means."""

    def __init__(self, heard: Iterable[Path]):
        self.clips = Embeddings(list(heard))
        self.moments = metrics.moments(self.clips)
        self.centre = np.mean([clip.mean(0, dtype=np.float64) for clip in self.clips], axis=0)


@dataclass
class Session:
    """One listener's part of an evaluation: what it heard in the reference, in the recording of each prompt (by the
    prompt's name), and what it makes of the sentences."""

    name: str
    weights: str
    proxy: bool
    window: float
    ground: Ground | None = None
    pairs: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, np.ndarray] = field(default_factory=dict)

    def metrics(self, asked: Iterable[str], prompts: PromptSet | None) -> list[str]:
        """Those of `asked` that this listener is for; with the challenge's prompts, its own only."""
        if prompts is not None and prompts.name == "attm" and not self.proxy:
            return [m for m in asked if self.name in ATTM.get(m, ())]
        return [m for m in asked if self.name in METRICS[m].listeners]


def scores(
    asked: Iterable[str], session: Session, heard: dict[str, Path], replicates: int, seed: int
) -> dict[str, Score]:
    """Those of the metrics `asked` that can be computed for a row, by "metric/listener". heard: file by stem."""
    found = {name: _score(name, session, heard, {"replicates": replicates, "seed": seed}) for name in asked}
    return {f"{name}/{session.name}": score for name, score in found.items() if score is not None}


def _score(name: str, session: Session, heard: dict[str, Path], draw: dict[str, int]) -> Score | None:
    """None where there is nothing to compute it from."""
    ground, clips = session.ground, Embeddings(list(heard.values()))

    def tags(file: Path) -> np.ndarray:
        return metrics.tag_probabilities(Embeddings([file], "tags")[0])

    def over_pairs(number: Callable[[np.ndarray, np.ndarray], float]) -> Score | None:
        both = [stem for stem in heard if stem in session.pairs]
        values = [number(tags(heard[stem]), tags(session.pairs[stem])) for stem in both]
        return metrics.average(values, **draw) if both else None

    if name == "kl":
        return over_pairs(metrics.kl_divergence)
    if name == "tags":
        return over_pairs(metrics.tag_agreement)
    if name == "clap":
        said = [stem for stem in heard if stem in session.texts]
        values = [metrics.clap_score(Embeddings([heard[stem]])[0], session.texts[stem]) for stem in said]
        return metrics.average(values, **draw) if said else None
    if ground is None or not len(clips):
        return None
    if name == "vendi":
        return metrics.vendi(clips, ground.centre, **draw)
    if name == "cosine":
        return metrics.mean_cosine(clips, ground.centre, **draw) if len(clips) > 1 else None
    if sum(map(len, clips)) < 2 or ground.moments.count < 2:
        return None
    if name == "kad":
        return metrics.kad(clips, ground.clips, **draw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the score's notes say it, and the table prints them
        return metrics.frechet(clips, ground.moments, **draw)
