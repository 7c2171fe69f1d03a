"""The folder that the academic text-to-music challenge asks for (ICME 2026; arXiv 2605.21538), by its rules.

    python recipes/attm/submission.py MODEL PROMPTS DATA OUT --run RUN [--track efficiency] [--seed 0] [--separated]
                                      [--rehearsal]

MODEL: a run's folder, or a joint one; RUN: the folder of each run that it was trained in. PROMPTS: a CSV with a column
caption, and one of names. DATA: the data set of `ostinato curate` that it was trained on. OUT: audio/NAME.wav, 10 s at
44.1 kHz, one generation a prompt; prompts.csv; code/; submission.json, which declares every component. A rule that is
broken stops it before anything is generated; with --rehearsal it is written in submission.json instead. --separated:
the collection had lost its voices before it was curated, as the challenge's own preprocessing leaves it. Interrupted,
the same command goes on.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import soxr
import torch

import ostinato
from ostinato.evaluation.degenerate import faults
from ostinato.evaluation.prompts import Prompt, read_prompts
from ostinato.generation.folders import resolve, training_state
from ostinato.generation.pipeline import Ostinato, load
from ostinato.utils.audio import read_audio, write_audio
from ostinato.utils.errors import UserError

RATE, SECONDS = 44100, 10.0  # what is judged: the first 10 s at 44.1 kHz
PROMPTS, WORDS = 100, 100  # how many there are, and under how many words each has
LIMITS = {"efficiency": 500_000_000, "performance": None}  # parameters, without codec and text encoder
JAMENDO = "https://www.jamendo.com/track/"
TOGETHER = 8


def core_parameters(model: Ostinato) -> dict[str, int]:
    """Of all that turns text and noise into codes: what the challenge calls the core generative model."""
    parts = {"language model": model.lm} | ({"fine stage": model.fine.denoiser} if model.fine else {})
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def broken_rules(
    core: int, prompts: list[Prompt], data: Path, runs: dict[str, dict], track: str, separated: bool
) -> list[str]:
    broken = [f"{run} began with the weights of {about['init']}" for run, about in runs.items() if about["init"]]
    limit = LIMITS[track]
    if limit is not None and core > limit:
        broken.append(f"{core:,} parameters generate, and the {track} track allows {limit:,}")
    if len(prompts) != PROMPTS:
        broken.append(f"{len(prompts)} prompts, and the challenge has {PROMPTS}")
    broken += [f"prompt {p.name} has {WORDS} words or more" for p in prompts if len(p.text.split()) >= WORDS]
    table = pq.read_table(data / "metadata.parquet", columns=["source", "separated_by"]).to_pylist()
    others = sum(not row["source"].startswith(JAMENDO) for row in table)
    if others:
        broken.append(f"{others} of {len(table)} training clips are not MTG-Jamendo's, and nothing else may be used")
    with_voices = sum(not row["separated_by"] for row in table)
    if with_voices and not separated:
        broken.append(f"{with_voices} of {len(table)} training clips were not separated from their voices")
    return broken


def generate(model: Ostinato, prompts: list[Prompt], folder: Path, seed: int) -> None:
    """One generation a prompt, prompt i with seed + i, whatever it sounds like: none is chosen, none is made twice."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(i, p) for i, p in enumerate(prompts) if not (folder / f"{p.name}.wav").exists()]
    for batch in (missing[i : i + TOGETHER] for i in range(0, len(missing), TOGETHER)):
        # A frame more than 10 s: a codec's frames seldom end there.
        clips = model.generate([p.text for _, p in batch], SECONDS + 0.1, [seed + i for i, _ in batch])
        for clip, (_, prompt) in zip(clips, batch, strict=True):  # type: ignore[arg-type]
            at_rate = soxr.resample(clip.audio.mean(0).numpy(), clip.sample_rate, RATE, quality="VHQ")
            audio = torch.from_numpy(at_rate[: round(SECONDS * RATE)])[None].clamp(-1, 1)
            write_audio(folder / f"{prompt.name}.wav", audio, RATE)
            print(f"{prompt.name}: {prompt.text}", file=sys.stderr)


def checked(prompts: list[Prompt], folder: Path) -> dict[str, dict]:
    """What each file is. Raises: UserError for a file that is not 10 s at 44.1 kHz."""
    found = {}
    for prompt in prompts:
        path = folder / f"{prompt.name}.wav"
        audio = read_audio(path, RATE)
        if audio.shape[-1] != round(SECONDS * RATE):
            raise UserError(f"{path} has {audio.shape[-1] / RATE:.3f} s: take it away, and run this again")
        heard = [name for name, is_one in vars(faults(audio[0].numpy(), RATE)).items() if is_one]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[prompt.name] = {"text": prompt.text, "sha256": digest, "faults": heard}
    return found


def write_code(out: Path, model: str) -> None:
    """The package as it is installed here, without the models that it ships, and the config of this one."""
    package = Path(ostinato.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "packs")
    shutil.copytree(package, out / "code/ostinato", ignore=ignored, dirs_exist_ok=True)
    for path in sorted(Path(model).rglob("*.json")) if Path(model).is_dir() else ():
        place = out / "code/model" / path.relative_to(model)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    for name in ("prompts", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--track", choices=LIMITS, default="efficiency")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", action="append", required=True)
    parser.add_argument("--separated", action="store_true")
    parser.add_argument("--rehearsal", action="store_true")
    asked = parser.parse_args()
    prompts = read_prompts(asked.prompts)
    model = load(asked.model, "cuda" if torch.cuda.is_available() else "cpu")
    parts = core_parameters(model)
    runs = {run: training_state(resolve(run))["run"] for run in asked.run}
    broken = broken_rules(sum(parts.values()), prompts, asked.data, runs, asked.track, asked.separated)
    if broken and not asked.rehearsal:
        raise UserError("; ".join(broken))
    generate(model, prompts, asked.out / "audio", asked.seed)
    shutil.copyfile(asked.prompts, asked.out / "prompts.csv")
    write_code(asked.out, asked.model)
    declared = {
        "track": asked.track,
        "limit": LIMITS[asked.track],
        "core": {"parameters": parts, "in all": sum(parts.values()), "runs": runs},
        "auxiliary": {"codec": model.config.get("codec"), "text encoder": model.config.get("text")},
        "data": json.loads((asked.data / "recipe.json").read_text()) | {"separated before": asked.separated},
        "sampling": vars(model.sampling) | ({"fine stage": vars(model.fine.sampling)} if model.fine else {}),
        "seed": asked.seed,
        "ostinato": ostinato.__version__,
        "broken rules": broken,
        "clips": checked(prompts, asked.out / "audio"),
    }
    (asked.out / "submission.json").write_text(json.dumps(declared, indent=2, default=str) + "\n")
    print(f"{asked.out}: {len(prompts)} clips, {sum(parts.values()):,} parameters, track {asked.track}")
    for rule in broken:
        print(f"a rehearsal only: {rule}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"submission.py: {error}", file=sys.stderr)
        sys.exit(2)
