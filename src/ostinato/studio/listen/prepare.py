"""`ostinato listen prepare`: folders of clips, or what `ostinato evaluate` rendered, become a folder to serve."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from ostinato.evaluation.embed import find_clips
from ostinato.evaluation.prompts import PLACES, load_prompts
from ostinato.generation.recipe import MARK
from ostinato.studio.listen import stimuli
from ostinato.studio.listen.manifest import FORMAT, SCALES, ListeningTest, Prompt, Stimulus, System, Trial
from ostinato.utils.audio import read_audio, write_audio
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

Told = Callable[[str, int, int], object]  # what is being done, how many of how many
JUDGED = ("model", "clips")  # kinds of an evaluation's rows that listeners compare
SESSION = {"scales": 3, "pairs": 10}  # the paper's three prompts; as many pairs take as long
HEARD_TIMES = 1.5  # what is heard of a clip, in its lengths: some of it is heard again

CONSENT = """\
You will hear short pieces of music and judge them. There are {session} {pages}, of {clips} clips each; it takes about \
{minutes} minutes. Please use headphones, in a quiet place.

Taking part is voluntary. You may stop at any time, without a reason, and you may delete your answers with the button \
at the bottom of every page.

Your answers are kept, with the times at which you began and ended and how much of each clip was played. Your name, \
your address and what device you use are not asked and not kept. A cookie in this browser remembers where you are, \
and nothing else. The answers may be published, and nobody can see from them who you are."""


@dataclass(frozen=True)
class Options:
    """What a test is like. session: prompts of a listener (with pairs: pairs); pool: prompts to choose them from, by
    `seed` (None: all that every system has a clip of); seconds: most of a clip; reference: a folder of real recordings
    that hide among the systems; anchor: and these low-passed; attention, headphones: checks of the listener; consent:
    a text of one's own, an empty line between paragraphs."""

    session: int | None = None
    pool: int | None = None
    mode: str = "scales"
    seconds: float | None = None
    title: str = "Listening test"
    captions: str | None = None
    consent: Path | None = None
    reference: Path | None = None
    anchor: bool = False
    attention: bool = False
    headphones: bool = False
    heard_in_full: bool = False
    loudness: float = -23.0
    seed: int = 0


@dataclass
class Source:
    """A system and its files by the name of their prompt."""

    system: System
    files: dict[str, Path]


@dataclass
class Levels:
    """What a first hearing of all clips found. target: LUFS that every clip can be brought to."""

    target: float
    of: dict[tuple[int, int], float] = field(default_factory=dict)  # LUFS by prompt and system
    seconds: dict[int, float] = field(default_factory=dict)  # by prompt: what all its clips are cut to
    notes: list[str] = field(default_factory=list)


def prepare(
    targets: Sequence[str], output: Path, options: Options, told: Told = lambda what, done, count: None
) -> tuple[ListeningTest, list[str]]:
    """Write a listening test into `output`, whole or not at all; returns it, and notes for whoever runs it.

    targets: folders of clips, folders that `ostinato evaluate` wrote (each of its rows a system), or NAME=FOLDER.
    Every clip is mono at 44.1 kHz, cut to the shortest of its prompt's, at one loudness, under a random name; so
    neither length, rate, level nor name tells the systems apart.
    Raises UserError for fewer than two systems, prompts that too few systems share, a prompt without a sentence, audio
    that cannot be read, and an `output` that is there already.
    """
    if output.exists():
        raise UserError(f"{output} is there already, perhaps with ratings: name another folder, or delete it")
    if options.anchor and options.reference is None:
        raise UserError("the low anchor is made of real recordings: give --reference FOLDER with it")
    sources, sentences, notes = find_sources(targets, options)
    prompts = choose_prompts(sources, sentences, options)
    session = min(SESSION[options.mode], len(prompts)) if options.session is None else options.session
    if not 1 <= session <= len(prompts):
        raise UserError(f"a session of {session} prompts was asked, and the pool has {len(prompts)}")
    levels = measure(sources, prompts, options, told)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        (partial / "clips").mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {output} ({error.strerror}): name another") from error
    try:
        clips = write_clips(sources, prompts, options, levels, partial / "clips", told)
        checks = write_checks(options, levels.target, partial / "clips") if options.headphones else (None, ())
        test = ListeningTest(
            id=secrets.token_hex(4),
            title=options.title,
            mode=options.mode,
            session=session,
            heard_in_full=options.heard_in_full,
            consent=(),
            loudness=levels.target,
            sample_rate=stimuli.RATE,
            seed=options.seed,
            systems=tuple(s.system for s in sources),
            prompts=tuple(prompts),
            stimuli=tuple(clips),
            volume=checks[0],
            trials=checks[1],
        )
        test = replace(test, consent=consent_text(test, options.consent))
        write_test(test, partial)
        for path in (partial / "clips").iterdir():
            os.utime(path, (0, 0))  # the order they were written in is nobody's business
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return test, notes + levels.notes


def find_sources(targets: Sequence[str], options: Options) -> tuple[list[Source], dict[str, str], list[str]]:
    """The systems, the sentences by name that the evaluations or --captions have, and notes. Errors: `prepare`."""
    sources: list[Source] = []
    sentences, aliases = read_captions(options.captions) if options.captions else ({}, {})
    notes: list[str] = []
    for target in targets:
        name, separator, rest = target.partition("=")
        folder = Path(rest if separator and not Path(target).exists() else target)
        given = name if folder != Path(target) else None
        if (folder / "results.json").is_file():
            found, texts = of_evaluation(folder, given)
            sources += found
            sentences = texts | sentences
        else:
            clips = find_clips(folder, given)
            sources.append(Source(System(clips.name, "clips", made_by(folder)), clips.files))
            notes += [f"{path}: {why}" for path, why in clips.lost.items()]
    names = [s.system.name for s in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two systems are named {twice[0]!r}: name them, as in mine=FOLDER")
    if len(sources) < 2:
        raise UserError(f"a test compares two systems or more, and there is {len(sources)}: name more folders")
    if options.reference is not None:
        real = find_clips(options.reference, "reference").files
        real |= {name: real[stem] for name, stems in aliases.items() for stem in stems if stem in real}
        sources.append(Source(System("reference", "reference", {}), real))
        if options.anchor:
            sources.append(Source(System("anchor", "anchor", {"low_pass": stimuli.ANCHOR_HZ}), real))
    return sources, sentences, notes


def of_evaluation(folder: Path, only: str | None) -> tuple[list[Source], dict[str, str]]:
    """The rows of an evaluation that are systems (with `only`, the one of that name), and its sentences by name."""
    try:
        results = json.loads((folder / "results.json").read_text())
        rows = [row for row in results["rows"] if row["kind"] in JUDGED and row["folder"]]
        rows = [row for row in rows if only in (None, row["name"])]
        seconds, asked = results["settings"]["seconds"], results["prompts"]
        sources = []
        for row in rows:
            files = {k: v for k, v in find_clips(row["folder"], row["name"]).files.items() if k not in row["lost"]}
            sources.append(Source(System(row["name"], row["kind"], row["about"] | {"seconds": seconds}), files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}/results.json is no evaluation ({error}): make it again") from error
    if not sources:
        what = f"no row {only!r}" if only else "no rows of models or clips"
        raise UserError(f"{folder} has {what} for listeners to compare")
    source = (asked or {}).get("source", "")
    spec = asked["set"] if source in PLACES.values() else source if Path(source).is_file() else None
    return sources, read_captions(spec)[0] if spec and spec.lower().endswith(".csv") else {}


def made_by(folder: Path) -> dict:
    """What made a folder of clips, where `ostinato evaluate` rendered them."""
    try:
        about = json.loads((folder / "made.json").read_text())["settings"]["model"]
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_captions(spec: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Sentences by name, and the stems that a sentence's real recording may have. Errors: `load_prompts`."""
    prompts = load_prompts(spec, vocals=True).prompts
    return {p.name: p.text for p in prompts}, {p.name: p.real for p in prompts}


def choose_prompts(sources: Sequence[Source], sentences: dict[str, str], options: Options) -> list[Prompt]:
    """The pool: prompts of which every system has a clip, `options.pool` of them by seed. Errors: `prepare`."""
    names = sorted(set.intersection(*(set(s.files) for s in sources)))
    if not names:
        said = "; ".join(f"{s.system.name}: {min(s.files)!r}" for s in sources)
        raise UserError(f"no prompt has a clip of every system; clips are matched by their names ({said})")
    if options.pool is not None:
        if not 1 <= options.pool <= len(names):
            raise UserError(f"a pool of {options.pool} prompts was asked, and the systems share {len(names)}")
        order = np.random.default_rng(options.seed).permutation(len(names))[: options.pool]
        names = sorted(names[i] for i in order)
    prompts = []
    for name in names:
        text = sentences.get(name) or next((t for s in sources if (t := sentence_of(s.files[name]))), "")
        if not text:
            raise UserError(f"the sentence of clip {name!r} is not known: give --captions FILE.csv (name, caption)")
        prompts.append(Prompt(name, text))
    return prompts


def sentence_of(path: Path) -> str:
    """The sentence in a file's tags, where Ostinato puts it: the comment, or, where that holds settings, the title."""
    try:
        with sf.SoundFile(path) as file:
            comment, title = file.comment.strip(), file.title.strip()
    except (sf.LibsndfileError, OSError, UnicodeDecodeError):
        return ""  # told when it is read
    return title if not comment or comment.startswith(("{", MARK)) else comment


def read_clip(source: Source, name: str, seconds: float | None) -> np.ndarray:
    """A clip as listeners hear it, but for its level: [samples] at `stimuli.RATE`. Errors: `read_audio`, too short."""
    audio = read_audio(source.files[name], stimuli.RATE, seconds=seconds)[0].numpy()
    if len(audio) < stimuli.SHORTEST_SECONDS * stimuli.RATE:
        raise UserError(f"{source.files[name]} is shorter than {stimuli.SHORTEST_SECONDS:g} s: leave it out")
    return stimuli.low_anchor(audio) if source.system.kind == "anchor" else audio


def measure(sources: Sequence[Source], prompts: Sequence[Prompt], options: Options, told: Told) -> Levels:
    """Hear every clip once: how loud it is, and how loud all of them can be."""
    levels = Levels(options.loudness)
    for i, prompt in enumerate(prompts):
        told("measuring loudness", i, len(prompts))
        clips = [read_clip(source, prompt.name, options.seconds) for source in sources]
        shortest = min(map(len, clips))
        levels.seconds[i] = shortest / stimuli.RATE
        for j, audio in enumerate(clip[:shortest] for clip in clips):
            level = stimuli.loudness(audio)
            levels.of[i, j] = level
            said = f"{prompt.name} of {sources[j].system.name}"
            if not math.isfinite(level):
                levels.notes.append(f"{said} is silent: its loudness cannot be made that of the others")
            most = stimuli.most_loudness(audio, level)
            if most < levels.target:
                levels.target = most
                levels.notes = [n for n in levels.notes if not n.startswith("all clips")]
                levels.notes.append(f"all clips are at {most:.1f} LUFS, not {options.loudness:g}: {said} would clip")
    return levels


def write_clips(
    sources: Sequence[Source],
    prompts: Sequence[Prompt],
    options: Options,
    levels: Levels,
    folder: Path,
    told: Told,
) -> list[Stimulus]:
    """Write every clip at the common loudness, and an attention clip a prompt where asked."""
    rng = np.random.default_rng([options.seed, 1])
    written = []
    for i, prompt in enumerate(prompts):
        told("writing clips", i, len(prompts))
        for j, source in enumerate(sources):
            audio = read_clip(source, prompt.name, options.seconds)[: round(levels.seconds[i] * stimuli.RATE)]
            audio = stimuli.to_loudness(audio, levels.of[i, j], levels.target)
            written.append(Stimulus(save(audio, folder), i, j, round(len(audio) / stimuli.RATE, 3)))
        if options.attention:
            j, beeps = int(rng.integers(len(sources))), int(rng.integers(1, 6))
            audio = read_clip(sources[j], prompt.name, options.seconds)[: round(levels.seconds[i] * stimuli.RATE)]
            audio = stimuli.attention_clip(stimuli.to_loudness(audio, levels.of[i, j], levels.target), beeps)
            written.append(Stimulus(save(audio, folder), i, j, round(len(audio) / stimuli.RATE, 3), beeps))
    return written


def write_checks(options: Options, target: float, folder: Path) -> tuple[str, tuple[Trial, ...]]:
    """Write the sounds of the headphone and volume check: noise at the test's loudness, and six trials."""
    noise = stimuli.pink_noise(8.0, options.seed)
    volume = save(stimuli.to_loudness(noise, stimuli.loudness(noise), target), folder)
    trials = []
    for audio, answer in stimuli.headphone_trials(options.seed):
        file = f"{secrets.token_hex(8)}.flac"
        sf.write(folder / file, audio, stimuli.RATE, subtype="PCM_16")  # on two sides, as no clip is
        trials.append(Trial(file, answer))
    return volume, tuple(trials)


def save(audio: np.ndarray, folder: Path) -> str:
    """Write [samples] under a random name, which is returned."""
    name = f"{secrets.token_hex(8)}.flac"
    write_audio(folder / name, torch.from_numpy(audio), stimuli.RATE)
    return name


def write_test(test: ListeningTest, folder: Path) -> None:
    """Write test.json, whole or not at all. Raises UserError where that cannot be."""
    text = json.dumps({"format": FORMAT, **asdict(test)}, indent=1, ensure_ascii=False)
    write_atomic(folder / "test.json", lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def consent_text(test: ListeningTest, own: Path | None) -> tuple[str, ...]:
    """The paragraphs to consent to. Raises UserError for a text that is empty or cannot be read."""
    if own is None:
        text = CONSENT.format(
            session=test.session,
            pages=("pairs" if test.mode == "pairs" else "prompts") if test.session > 1 else "prompt",
            clips=2 if test.mode == "pairs" else len(test.systems),
            minutes=minutes_of(test),
        )
    else:
        try:
            text = own.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the consent text {own} ({error}): give a text file in UTF-8") from error
    paragraphs = tuple(" ".join(part.split()) for part in text.split("\n\n") if part.strip())
    if not paragraphs:
        raise UserError(f"the consent text {own} is empty: write what listeners agree to")
    return paragraphs


def minutes_of(test: ListeningTest) -> int:
    """About how long a session takes."""
    clips = test.session * (2 if test.mode == "pairs" else len(test.systems))
    lengths = [s.seconds for s in test.stimuli if s.beeps is None]
    answers = 4 * clips * len(SCALES) / (2 if test.mode == "pairs" else 1)  # seconds
    checks = 60 if test.trials else 0
    return math.ceil((HEARD_TIMES * clips * sum(lengths) / len(lengths) + answers + checks) / 60)
