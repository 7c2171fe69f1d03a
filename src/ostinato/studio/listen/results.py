"""`ostinato listen results`: what the listeners said, as numbers, tables and a CSV of every mark."""

import csv
import io
import itertools
import json
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ostinato import __version__
from ostinato.evaluation.reporting.listening import results_page
from ostinato.studio.listen import statistics
from ostinato.studio.listen.ballots import Ballots, Session
from ostinato.studio.listen.manifest import HEADPHONES_PASS, SCALES, ListeningTest, read_test
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

FORMAT = 1
REPLICATES = 2000
PRIOR = 1.0  # a comparison more of every pair, half won by each: as Bradley-Terry's strengths are else infinite
HIDDEN = ("reference", "anchor")


@dataclass(frozen=True)
class Mark:
    """A mark, as a line of ratings.csv. position: of the clip in its page, from 1; value: 1 to 5, or with pairs 1
    (preferred), 0.5, 0; heard: share of the clip that was played; beeps: of an attention clip; counted: whether it is
    in the numbers."""

    listener: int
    page: int
    position: int
    prompt: str
    system: str
    scale: str
    value: float
    heard: float
    beeps: int | None
    submitted: str | None
    headphones: int | None
    counted: bool


def results(folder: Path, output: Path | None = None, only_passed: bool = False, seed: int = 0) -> dict[str, Any]:
    """Count the answers of the test in `folder` and write listening.json, results.md and ratings.csv to `output`
    (default: FOLDER/results). Returns what listening.json holds.

    A page counts once it was handed in, also of a listener who left before the end. only_passed: leave out who failed
    the headphone check or an attention clip. Raises UserError for no test, and for no answers.
    """
    test = read_test(folder)
    if not (folder / "ratings.db").is_file():
        raise UserError(f"nobody has listened yet: run `ostinato listen serve {folder}` and send people its address")
    ballots = Ballots(folder, test)
    try:
        everyone = ballots.everyone()
    finally:
        ballots.close()
    heard = [s for s in everyone if s.current > 0]
    failed = [s for s in heard if not passed(test, s)]
    marks = [m for s in everyone for m in marks_of(test, s, not (only_passed and s in failed))]
    counted = [m for m in marks if m.counted]
    if marks and failed and not counted:
        raise UserError(f"all {len(failed)} listeners of {folder} failed a check: count without --only-passed")
    if not counted:
        raise UserError(f"no page of {folder} is filled in yet ({len(everyone)} have begun): wait for listeners")
    finished = sum(bool(s.finished) for s in everyone)
    said: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "title": test.title,
        "mode": test.mode,
        "loudness": test.loudness,
        "raters": len({m.listener for m in counted}),
        "sessions": {"begun": len(everyone), "finished": finished, "failed": len(failed)},
        "only_passed": only_passed,
        "prompts": len({m.prompt for m in counted}),
        "scales": list(SCALES),
        "replicates": REPLICATES,
        "seed": seed,
        "systems": [asdict(system) for system in test.systems],
        "agreement": {scale: agreement(test, counted, scale) for scale in SCALES},
    }
    said |= pair_numbers(test, counted, seed) if test.mode == "pairs" else scale_numbers(test, counted, seed)
    output = output or folder / "results"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {output} ({error.strerror}): name another with --output") from error
    for name, text in {
        "listening.json": json.dumps(said, indent=1) + "\n",
        "results.md": results_page(said),
        "ratings.csv": as_csv(marks),
    }.items():
        write_atomic(output / name, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return said


def passed(test: ListeningTest, session: Session) -> bool:
    """Whether a listener passed the checks they have come to: five of six tones, and every attention clip."""
    if session.headphones is not None and session.headphones < HEADPHONES_PASS:
        return False
    beeps = {s.file: s.beeps for s in test.stimuli if s.beeps is not None}
    asked = [c for page in session.pages if page.submitted for c in page.clips if c.file in beeps]
    wanted = {c.id: 1 if test.mode == "pairs" else beeps[c.file] for c in asked}
    return all(value == wanted[c.id] for c in asked for value in c.ratings.values())


def marks_of(test: ListeningTest, session: Session, counts: bool) -> list[Mark]:
    """All marks of a listener; those of attention clips, and of pages not handed in, do not count."""
    stimuli = {s.file: s for s in test.stimuli}
    marks = []
    for number, page in enumerate(session.pages):
        checked = [stimuli[clip.file].beeps is not None for clip in page.clips]
        for position, clip in enumerate(page.clips):
            shown = stimuli[clip.file]
            check = any(checked) if test.mode == "pairs" else checked[position]
            for scale in SCALES:
                if scale in clip.ratings:
                    marks.append(
                        Mark(
                            session.number,
                            number + 1,
                            position + 1,
                            test.prompts[shown.prompt].name,
                            test.systems[shown.system].name,
                            scale,
                            clip.ratings[scale],
                            round(clip.heard, 3),
                            shown.beeps,
                            page.submitted,
                            session.headphones,
                            counts and page.submitted is not None and not check,
                        )
                    )
    return marks


def crossed(test: ListeningTest, marks: list[Mark]) -> tuple[dict[int, int], dict[str, int], dict[str, int]]:
    """Places of listeners, prompts and systems in arrays."""
    listeners = {number: i for i, number in enumerate(sorted({m.listener for m in marks}))}
    prompts = {name: i for i, name in enumerate(sorted({m.prompt for m in marks}))}
    return listeners, prompts, {system.name: i for i, system in enumerate(test.systems)}


def scale_numbers(test: ListeningTest, marks: list[Mark], seed: int) -> dict[str, Any]:
    """Scores of every system and scale (mean, standard deviation over marks, interval, number of marks), and the
    differences of every two systems with their intervals."""
    listeners, prompts, systems = crossed(test, marks)
    weights = statistics.weights(len(listeners), len(prompts), REPLICATES, seed)
    scores: dict[str, dict[str, Any]] = {name: {} for name in systems}
    differences: list[dict[str, Any]] = [
        {"systems": list(two), "scales": {}} for two in itertools.combinations(systems, 2)
    ]
    for scale in SCALES:
        sums = np.zeros((2, len(listeners), len(prompts), len(systems)))  # of marks, and how many
        of_system: dict[str, list[float]] = {name: [] for name in systems}
        for m in marks:
            if m.scale == scale:
                sums[:, listeners[m.listener], prompts[m.prompt], systems[m.system]] += m.value, 1
                of_system[m.system].append(m.value)
        with np.errstate(invalid="ignore", divide="ignore"):
            replicates = np.divide(*(statistics.weighted_sums(part, *weights) for part in sums))
        few = len(listeners) < 2
        for name, j in systems.items():
            values = of_system[name]
            if values:
                between = None if few else statistics.interval(replicates[:, j])
                scores[name][scale] = score(values, between)
        for entry in differences:
            a, b = (systems[name] for name in entry["systems"])
            if of_system[entry["systems"][0]] and of_system[entry["systems"][1]]:
                between = None if few else statistics.interval(replicates[:, a] - replicates[:, b])
                value = float(np.mean(of_system[entry["systems"][0]]) - np.mean(of_system[entry["systems"][1]]))
                low, high = between or (None, None)
                entry["scales"][scale] = {"value": value, "low": low, "high": high}
    return {"scores": scores, "differences": differences}


def score(values: list[float], between: tuple[float, float] | None) -> dict[str, Any]:
    """mean, std (of a sample; None of one mark), low, high and n of some marks."""
    low, high = between or (None, None)
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "low": low, "high": high, "n": len(values)}


def pair_numbers(test: ListeningTest, marks: list[Mark], seed: int) -> dict[str, Any]:
    """Strengths of every system and scale by Bradley-Terry, with intervals, and how often each was preferred."""
    listeners, prompts, systems = crossed(test, marks)
    weights = statistics.weights(len(listeners), len(prompts), REPLICATES, seed)
    strengths: dict[str, dict[str, Any]] = {name: {} for name in systems}
    won: list[dict[str, Any]] = []
    for scale in SCALES:
        wins = np.zeros((len(listeners), len(prompts), len(systems), len(systems)))
        for first, second in pairs_of(marks, scale):
            at = listeners[first.listener], prompts[first.prompt]
            i, j = systems[first.system], systems[second.system]
            wins[(*at, i, j)] += first.value
            wins[(*at, j, i)] += second.value
        total = wins.sum((0, 1))
        value = statistics.bradley_terry(total, PRIOR)
        replicates = statistics.bradley_terry(statistics.weighted_sums(wins, *weights), PRIOR)
        for name, j in systems.items():
            games = total[j].sum() + total[:, j].sum()
            if games:
                between = statistics.interval(replicates[:, j]) if len(listeners) > 1 else None
                low, high = between or (None, None)
                share = float(total[j].sum() / games)
                strengths[name][scale] = {
                    "value": float(value[j]), "low": low, "high": high, "preferred": share, "n": int(games)
                }  # fmt: skip
        for a, b in itertools.combinations(systems, 2):
            i, j = systems[a], systems[b]
            if n := total[i, j] + total[j, i]:
                won.append({"systems": [a, b], "scale": scale, "preferred": float(total[i, j] / n), "n": int(n)})
    return {"strengths": strengths, "preferences": won, "prior": PRIOR}


def pairs_of(marks: list[Mark], scale: str) -> list[tuple[Mark, Mark]]:
    """The two marks of every pair, the clip that was shown first before the other."""
    by_page: dict[tuple[int, int], list[Mark]] = {}
    for m in marks:
        if m.scale == scale:
            by_page.setdefault((m.listener, m.page), []).append(m)
    return [(two[0], two[1]) for two in by_page.values() if len(two) == 2]


def agreement(test: ListeningTest, marks: list[Mark], scale: str) -> float | None:
    """Krippendorff's alpha over clips (with pairs: over pairs of clips) of the systems that are judged; what everybody
    hears, the hidden reference and the anchor, would raise it."""
    judged = {s.name: i for i, s in enumerate(test.systems) if s.kind not in HIDDEN}
    if test.mode == "pairs":
        rows = []
        for two in pairs_of(marks, scale):
            first, second = sorted(two, key=lambda m: judged.get(m.system, -1))
            if first.system in judged:
                rows.append((first.listener, f"{first.prompt}/{first.system}/{second.system}", first.value))
    else:
        of_scale = [m for m in marks if m.scale == scale and m.system in judged]
        rows = [(m.listener, f"{m.prompt}/{m.system}", m.value) for m in of_scale]
    if not any(n > 1 for n in Counter(unit for _, unit, _ in rows).values()):
        return None
    return statistics.ordinal_alpha(statistics.reliability(rows))


def as_csv(marks: list[Mark]) -> str:
    """A line for every mark, whether it counts or not."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(Mark.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    for m in marks:
        writer.writerow({k: "" if v is None else f"{v:g}" if isinstance(v, float) else v for k, v in asdict(m).items()})
    return out.getvalue()
