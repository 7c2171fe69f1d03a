"""`ostinato evaluate`: clips of folders and models, held against real music by the metrics of the papers.

Rows are sets of clips: the real recordings, the same through a codec's first codebooks, the oracles of two-stage
models, and every target. A metric is computed with the listeners it is defined on (`registry.METRICS`); what stand-ins
heard goes into a table of its own.
"""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ostinato import __version__
from ostinato.codecs.base import Codec, sound_id
from ostinato.codecs.load import load_codec
from ostinato.evaluation.degenerate import count_faults
from ostinato.evaluation.embed import SHORTEST, ClipSet, Embedder, find_clips, rate_notes
from ostinato.evaluation.generate import (
    OnProgress,
    is_model,
    load_fine_of,
    render_cut,
    render_model,
    render_refined,
    save_json,
)
from ostinato.evaluation.metrics import REPLICATES, Score
from ostinato.evaluation.networks.base import LISTENERS, load_listener
from ostinato.evaluation.prompts import Prompt, PromptSet
from ostinato.evaluation.registry import METRICS, Ground, Session, scores
from ostinato.evaluation.train_overlap import TrainingStore, nearest_embeddings
from ostinato.generation.fine_stage import identity
from ostinato.utils.errors import UserError, nearest

FORMAT = 1
DRIFT_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """What all rows share. seconds: of each clip, from its beginning; replicates: of the bootstrap; codebooks: how many
    of `codec`'s the real clips go through, a row each; drift: metrics by 10 s window, too; store: codes that the
    models were trained on, to see what they repeat."""

    metrics: tuple[str, ...] = tuple(METRICS)
    listeners: tuple[str, ...] = ("openl3", "passt", "vggish", "clap")
    seconds: float = 10.0
    seed: int = 0
    batch: int = 8
    replicates: int = REPLICATES
    codec: str = "dac"
    codebooks: tuple[int, ...] = ()
    drift: bool = False
    store: Path | None = None
    device: str = "cpu"
    dtype: str = "float32"  # of the weights of models that play, as `load` takes it

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise UserError(f"no metric {name!r}: {nearest(name, list(METRICS))}")
        for spec in self.listeners:
            if spec.partition(":")[0] not in LISTENERS:
                raise UserError(f"no listening network {spec!r}: {nearest(spec, list(LISTENERS))}")
        if not 0 < self.seconds < float("inf"):
            raise UserError(f"seconds must be above 0, got {self.seconds:g}")
        if self.drift and self.seconds < DRIFT_SECONDS:
            raise UserError(f"drift is by windows of {DRIFT_SECONDS:g} s: ask for more than {self.seconds:g} seconds")
        for key in ("batch", "replicates"):
            if getattr(self, key) < 1:
                raise UserError(f"{key} must be 1 or more, got {getattr(self, key)}")


@dataclass
class Row:
    """One row under way: its clips, the cached file of each by listener and stem, and the same by 10 s window."""

    clips: ClipSet
    heard: dict[str, dict[str, Path]] = field(default_factory=dict)
    windows: dict[str, list[dict[str, Path]]] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    def heard_by_all(self, listener: str) -> dict[str, Path]:
        """What `listener` heard of the clips that no listener lost: all numbers of a row are over the same."""
        common = set.intersection(*(set(heard) for heard in self.heard.values()))
        return {stem: file for stem, file in self.heard[listener].items() if stem in common}


def evaluate(
    targets: Sequence[str],
    prompts: PromptSet | None,
    reference: Path | None,
    output: Path,
    settings: Settings = Settings(),
    on_progress: OnProgress = lambda what, done, count: None,
) -> dict:
    """Evaluate targets (folders of clips or models; "name=target" names the row) and write OUTPUT/results.json.

    prompts: the sentences, needed by models and by the CLAP score; clips are theirs by stem. reference: a folder of
    real audio, whose clips are pairs of those of the same stem. on_progress: called with what is being done
    and how far. Everything made or heard is kept in `output`, so that the same command again does only what is new.

    Returns what results.json holds. Raises UserError where nothing can be evaluated; a clip that cannot be is told in
    the row's `lost`, and the rest goes on.
    """
    named = [name_target(target) for target in targets]
    if len({name for name, _ in named}) < len(named):
        raise UserError(f"two rows have one name ({', '.join(n for n, _ in named)}): name them, as in mine=FOLDER")
    for _, target in named:
        if prompts is None and is_model(target):
            here = target == "pocket" or Path(target).is_dir()
            what = "a model" if here else "not a folder here (a model of the hub?)"
            raise UserError(f"{target} is {what}: name a folder of clips, or give --prompts for a model to play")
    real = find_clips(reference, "reference") if reference else None
    # Whatever can fail is tried before hours of generation: weights that cannot be had, a store that does not fit.
    for spec in settings.listeners:
        load_listener(spec)
    training = TrainingStore(settings.store, settings.seconds, settings.device) if settings.store else None
    rows = [*real_rows(real, named, prompts, output, settings, on_progress)]
    rows += [Row(clips_of(name, target, prompts, output, settings, on_progress)) for name, target in named]
    if not rows:
        raise UserError("nothing to evaluate: name folders of clips or models, or give a --reference")
    for row in rows:
        row.clips.notes += rate_notes(row.clips, real)
    # Clips of the store are heard along with the rows, and are none.
    shadows = [Row(clips) for clips in training.clips(output / "store", on_progress)] if training else []
    heard = rows + shadows
    sessions = [listen(spec, heard, real, prompts, output, settings, on_progress) for spec in settings.listeners]
    for i, row in enumerate(rows):
        on_progress("computing", i, len(rows))
        score_row(row, sessions, prompts, settings, real is not None)
        kept = [file for stem, file in row.clips.files.items() if stem not in row.clips.lost]
        counted = count_faults(kept, seconds=settings.seconds)
        row.extras["faults"] = {"clips": counted.clips, **counted.counts}
    if training:
        add_overlap(rows, training, shadows, sessions, on_progress)
    results = {
        "format": FORMAT,
        "version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()},
        "prompts": {"set": prompts.name, **prompts.about} if prompts else None,
        "reference": {"folder": str(reference), "clips": kept_of(real), "lost": real.lost} if real else None,
        "listeners": {s.name: {"weights": s.weights, "proxy": s.proxy, "window": s.window} for s in sessions},
        "rows": [written(row) for row in rows],
    }
    save_json(output / "results.json", results)
    return results


def name_target(target: str) -> tuple[str, str]:
    """ "name=target" -> both; a bare target is named after its last part."""
    name, separator, rest = target.partition("=")
    if separator and not Path(target).exists():
        return name, rest
    return Path(target).name or target, target


def clips_of(
    name: str, target: str, prompts: PromptSet | None, output: Path, settings: Settings, on_progress: OnProgress
) -> ClipSet:
    """The clips of a target, made where it is a model."""
    if prompts is None or not is_model(target):
        return chosen(find_clips(target, name), prompts)
    s = settings
    return render_model(
        name, target, prompts, output / "clips" / name, s.seconds, s.seed, s.batch, s.device, s.dtype, on_progress
    )


def chosen(clips: ClipSet, prompts: PromptSet | None) -> ClipSet:
    """The clips that belong to prompts; a prompt without one counts as lost, a clip without one is noted."""
    if prompts is None:
        return clips
    named = {p.name for p in prompts.prompts}
    others = [stem for stem in clips.files if stem not in named]
    if len(others) == len(clips.files):
        raise UserError(
            f"no clip of {clips.name} is named after a prompt of {prompts.name} (clips such as {others[0]!r}, prompts "
            f"such as {prompts.prompts[0].name!r}): rename them, or leave --prompts out"
        )
    if others:
        clips.notes.append(f"{len(others)} clips are of no prompt (such as {others[0]}), and left out")
    for p in prompts.prompts:
        if p.name not in clips.files:
            clips.lost.setdefault(p.name, "there is no clip for this prompt")
    clips.files = {p.name: clips.files[p.name] for p in prompts.prompts if p.name in clips.files}
    return clips


def real_rows(
    real: ClipSet | None,
    named: Sequence[tuple[str, str]],
    prompts: PromptSet | None,
    output: Path,
    settings: Settings,
    on_progress: OnProgress,
) -> Iterator[Row]:
    """The ground truth: the recordings of the prompts (of no prompts, all), these through the codec, and the oracles of
    the targets (name and target of each) that are two-stage models."""
    if real is None:
        if settings.codebooks:
            raise UserError("real clips go through a codec, and there are none: give --reference FOLDER")
        return
    files = real.files
    if prompts is not None:
        files = {p.name: real.files[stem] for p in prompts.prompts if (stem := paired(p, real))}
        if settings.codebooks and not files:
            raise UserError(
                f"no recording of the reference (such as {next(iter(real.files))!r}) is named after a prompt of "
                f"{prompts.name} (such as {prompts.prompts[0].name!r}): rename them, or leave --codebooks out"
            )
    if files:
        note = "these clips are among those of the reference, which brings them nearer to it"
        yield Row(ClipSet("real", dict(files), "real", notes=[note]))
    cut: set[tuple[str, int]] = set()  # sound_id of the codec and number of codebooks, of the rows so far
    if settings.codebooks:
        codec = load_codec(settings.codec, settings.device)
        label = Path(settings.codec).name
        for n in settings.codebooks:
            cut.add((sound_id(codec), n))
            yield cut_row(label, files, codec, n, output / "clips" / f"real-{label}-{n}", settings, on_progress)
    if prompts is not None and files:
        yield from oracle_rows(files, named, cut, prompts, output, settings, on_progress)


def cut_row(
    label: str, files: dict[str, Path], codec: Codec, n: int, folder: Path, settings: Settings, on_progress: OnProgress
) -> Row:
    name = f"real, {label}, {n} of {codec.num_codebooks} codebooks"
    return Row(render_cut(name, files, codec, n, folder, settings.seconds, on_progress))


def oracle_rows(
    files: dict[str, Path],
    named: Sequence[tuple[str, str]],
    cut: set[tuple[str, int]],
    prompts: PromptSet,
    output: Path,
    settings: Settings,
    on_progress: OnProgress,
) -> Iterator[Row]:
    """What tells the stages of a two-stage model apart: the recordings (by their prompts' names) through the first
    codebook of its codec, through that and its fine stage, and through all codebooks. Models that share a codec or a
    fine stage share the rows. cut: as in `real_rows`."""
    refined: dict[str, Row] = {}
    for name, target in named:
        on_progress(f"loading {name}", 0, 1)
        stage = load_fine_of(target, settings.device, settings.dtype)
        if stage is None:
            continue
        codec_id, fine_id, K = sound_id(stage.codec), identity(stage), stage.codec.num_codebooks
        for n in (1, K):
            if (codec_id, n) not in cut:
                cut.add((codec_id, n))
                folder = output / "clips" / f"real-{codec_id}-{n}"
                yield cut_row(f"codec of {name}", files, stage.codec, n, folder, settings, on_progress)
        if fine_id in refined:
            refined[fine_id].clips.notes.append(f"{name} has the same fine stage")
            continue
        title, folder = f"real, 1 of {K} codebooks and the fine stage of {name}", output / "clips" / f"real-{fine_id}"
        s = settings
        refined[fine_id] = Row(render_refined(title, files, stage, prompts, folder, s.seconds, s.seed, on_progress))
        yield refined[fine_id]


def paired(prompt: Prompt, real: ClipSet) -> str | None:
    """The stem of a prompt's recording, if it is among the real clips."""
    return next((stem for stem in (prompt.name, *prompt.real) if stem in real.files), None)


def listen(
    spec: str,
    rows: list[Row],
    real: ClipSet | None,
    prompts: PromptSet | None,
    output: Path,
    settings: Settings,
    on_progress: OnProgress,
) -> Session:
    """Every clip through one network, which is in memory no longer than that."""
    name, _, weights = spec.partition(":")
    on_progress(f"loading {name}", 0, 1)
    listener = load_listener(spec, settings.device)
    session = Session(name, weights or "published", listener.proxy, listener.window)
    needs = {METRICS[metric].needs for metric in session.metrics(settings.metrics, prompts)}
    remembers = settings.store is not None and name in METRICS["vendi"].listeners
    embedder = Embedder(listener, weights, output / "heard", needs != {"pairs"} or remembers, "pairs" in needs)
    count, done = sum(len(row.clips.files) for row in rows) + (len(real.files) if real else 0), 0

    def step() -> None:
        nonlocal done
        done += 1
        on_progress(f"{name} listens", done, count)

    # Recordings may be shorter than what models are asked for: nobody has 5 minutes of every prompt.
    least = SHORTEST * min(settings.seconds, DRIFT_SECONDS)
    if real:
        heard = embedder.embed(real, settings.seconds, least=least, on_clip=step)
        if not heard:
            raise UserError(f"no reference clip could be used: {next(iter(real.lost.values()))}")
        session.ground = Ground(heard.values()) if embedder.embedding else None
        partners = {p.name: paired(p, real) for p in prompts.prompts} if prompts else {stem: stem for stem in heard}
        session.pairs = {stem: heard[partner] for stem, partner in partners.items() if partner in heard}
    if prompts and hasattr(listener, "embed_text"):
        embedded = listener.embed_text([p.text for p in prompts.prompts]).float().cpu().numpy()
        session.texts = {p.name: x for p, x in zip(prompts.prompts, embedded, strict=True)}
    for row in rows:
        short = least if row.clips.kind in ("real", "codec", "oracle") else None
        row.heard[name] = embedder.embed(row.clips, settings.seconds, least=short, on_clip=step)
        if settings.drift:
            starts = [i * DRIFT_SECONDS for i in range(int(settings.seconds // DRIFT_SECONDS))]
            # Sets of their own: a clip that ends early is no loss of the row's.
            parts = [ClipSet(row.clips.name, row.clips.files) for _ in starts]
            row.windows[name] = [
                embedder.embed(part, DRIFT_SECONDS, start) for part, start in zip(parts, starts, strict=True)
            ]
    return session


def score_row(
    row: Row, sessions: list[Session], prompts: PromptSet | None, settings: Settings, reference: bool
) -> None:
    """Fill in the scores of a row, and those of its windows: how a model holds up as it plays on. reference: whether
    there is one, for a clip's pair to be missed in."""
    drift: list[dict] = []
    for session in sessions:
        asked = session.metrics(settings.metrics, prompts)
        heard = row.heard_by_all(session.name)
        row.scores |= scores(asked, session, heard, settings.replicates, settings.seed)
        alone = [stem for stem in heard if stem not in session.pairs]
        if reference and alone and {"kl", "tags"} & set(asked):
            note = f"{len(alone)} clips have no recording of their name (such as {alone[0]}): not in KL and tags shared"
            row.clips.notes += [] if note in row.clips.notes else [note]
        for i, part in enumerate(row.windows.get(session.name, [])):
            if len(drift) <= i:
                drift.append({"start": i * DRIFT_SECONDS, "clips": len(part), "scores": {}})
            found = scores(asked, session, part, settings.replicates, settings.seed) if part else {}
            drift[i]["scores"] |= {name: asdict(score) for name, score in found.items()}
    if settings.drift:
        row.extras["drift"] = [window for window in drift if window["scores"]]


def add_overlap(
    rows: list[Row], training: TrainingStore, shadows: list[Row], sessions: list[Session], on_progress: OnProgress
) -> None:
    """Fill in what each row shares with the training store, in codes and in embeddings."""
    trained, held_out = shadows
    for row, found in zip(rows, training.overlap([row.clips for row in rows], on_progress), strict=True):
        for session in sessions:
            made = row.heard_by_all(session.name)
            if made and session.name in METRICS["vendi"].listeners:
                sides = trained.heard[session.name], held_out.heard[session.name]
                found[f"nearest/{session.name}"] = nearest_embeddings(made, *sides)
        row.extras["memorisation"] = found


def kept_of(clips: ClipSet) -> int:
    """How many clips of a set its numbers are over."""
    return sum(stem not in clips.lost for stem in clips.files)


def written(row: Row) -> dict:
    """A row as results.json has it."""
    clips = row.clips
    return {
        "name": clips.name,
        "kind": clips.kind,
        "clips": kept_of(clips),
        "lost": clips.lost,
        "notes": clips.notes,
        "about": clips.about,
        "folder": str(next(iter(clips.files.values())).parent.resolve()) if clips.files else None,
        "scores": {name: asdict(score) for name, score in row.scores.items()},
        **row.extras,
    }
