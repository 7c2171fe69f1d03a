"""Clips to evaluate: those a model makes of a prompt set, and real ones through a codec's first codebooks, alone or
with a fine stage for the others. What is there already is not made again."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ostinato.codecs.base import Codec, fingerprint, sound, sound_id
from ostinato.evaluation.baselines.musicgen import MusicGen
from ostinato.evaluation.embed import ClipSet
from ostinato.evaluation.prompts import PromptSet
from ostinato.generation.fine_stage import FineStage
from ostinato.generation.folders import TWO_STAGE, resolve
from ostinato.generation.info import training_rows
from ostinato.generation.pipeline import Ostinato, load
from ostinato.models.lm import count_parameters
from ostinato.utils.audio import read_audio, write_audio
from ostinato.utils.errors import UserError
from ostinato.utils.files import read_config, write_atomic

OnProgress = Callable[[str, int, int], object]  # what is being done, how many of how many
MUSICGEN_TYPES = ("musicgen",)


def load_target(target: str, device: str, dtype: str = "float32") -> Ostinato | MusicGen:
    """A model by short name, folder, run folder or hub id; MusicGen's by hub id or folder, always float32. Errors:
    `load`."""
    folder = resolve(target)
    if read_config(folder).get("model_type") in MUSICGEN_TYPES:
        return MusicGen(folder, device)
    return load(folder, device, dtype)


def load_fine_of(target: str, device: str, dtype: str) -> FineStage | None:
    """The fine stage of a target, with its codec and a text encoder; None of a target that is no two-stage model."""
    if not is_model(target) or read_config(resolve(target)).get("model_type") != TWO_STAGE:
        return None
    model = load(target, device, dtype)
    assert model.fine
    return replace(model.fine, text=model.fine.text or model.text)


def is_model(target: str) -> bool:
    """Whether a target names a model rather than a folder of clips: all but folders without config.json or
    checkpoints."""
    folder = Path(target)
    return not folder.is_dir() or (folder / "config.json").is_file() or any(folder.glob("step-*/config.json"))


def render_model(
    name: str,
    target: str,
    prompts: PromptSet,
    out: Path,
    seconds: float,
    seed: int,
    batch: int,
    device: str,
    dtype: str,
    on_progress: OnProgress,
) -> ClipSet:
    """Make the clips of `prompts` that `out` lacks: OUT/NAME.wav, and OUT/codes/NAME.npy where the model has codes.

    Prompt i of the set has seed `seed` + i whatever is in the batch with it, so that an interrupted run ends with the
    clips of an uninterrupted one. OUT/made.json says what made them, and what it cost; clips of another model, seed or
    length there raise UserError. A clip whose audio is not finite is reported and left out.
    """
    model = load_target(target, device, dtype)
    about = describe_target(target, model) | ({} if dtype == "float32" else {"dtype": dtype})
    settings = {"model": about, **played_with(model), "seconds": seconds, "seed": seed}
    made = begin_folder(out, settings | {"prompts": prompts.about.get("sha256")})
    clips = ClipSet(name, {}, "model", about=about)
    missing = [i for i, p in enumerate(prompts.prompts) if not (out / f"{p.name}.wav").is_file()]
    groups = runs_of(missing, batch)
    done = len(prompts) - len(missing)
    watch_memory()
    (out / "codes").mkdir(exist_ok=True)
    for group in groups:
        on_progress(f"generating: {name}", done, len(prompts))
        wanted = [prompts.prompts[i] for i in group]
        began = time.monotonic()
        rendered: Any = model.generate([p.text for p in wanted], seconds, seed + group[0])
        made["cost"]["seconds"] += time.monotonic() - began
        made["cost"]["audio"] += seconds * len(group)
        made["cost"]["peak_bytes"] = max(made["cost"]["peak_bytes"], peak_memory())
        for prompt, clip in zip(wanted, rendered, strict=True):
            try:
                if clip.codes.numel():
                    save_codes(out / "codes" / f"{prompt.name}.npy", clip.codes.numpy())
                write_audio(
                    out / f"{prompt.name}.wav",
                    clip.audio,
                    clip.sample_rate,
                    {"title": prompt.text, "comment": prompt.text},
                )
            except UserError as error:
                clips.lost[prompt.name] = str(error)
        done += len(group)
        save_json(out / "made.json", made)
    if made["cost"]["flops"] is None and isinstance(model, Ostinato):
        length = seconds if model.fine else 1.0  # a fine stage's windows overlap: one alone is not what many cost
        made["cost"]["flops"] = generation_flops(model, prompts.prompts[0].text, length)
        save_json(out / "made.json", made)
    clips.files = {p.name: out / f"{p.name}.wav" for p in prompts.prompts if p.name not in clips.lost}
    clips.about = about | {"cost": made["cost"]}
    if isinstance(model, Ostinato):
        clips.about["codec_id"] = fingerprint(model.codec)
    return clips


def begin_folder(out: Path, settings: dict) -> dict:
    """made.json of a folder of clips, begun where there is none. Raises UserError where it was made otherwise."""
    path = out / "made.json"
    settings = json.loads(json.dumps(settings))  # as it will be read again
    if path.is_file():
        try:
            made = json.loads(path.read_text())
            differ = ", ".join(k for k in settings if made["settings"].get(k) != settings[k])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} cannot be read ({error}): delete {out} to make its clips again") from error
        if differ:
            raise UserError(f"{out} holds clips made otherwise ({differ} differ): delete it, or give another --output")
        return made
    out.mkdir(parents=True, exist_ok=True)
    made = {"settings": settings, "cost": {"seconds": 0.0, "audio": 0.0, "peak_bytes": 0, "flops": None}}
    save_json(path, made)
    return made


def runs_of(numbers: list[int], longest: int) -> list[list[int]]:
    """Ascending numbers in groups of consecutive ones, of at most `longest`."""
    groups: list[list[int]] = []
    for n in numbers:
        if groups and groups[-1][-1] == n - 1 and len(groups[-1]) < longest:
            groups[-1].append(n)
        else:
            groups.append([n])
    return groups


def describe_target(target: str, model: Ostinato | MusicGen) -> dict:
    """What a model is, for results.json and the papers' tables."""
    if isinstance(model, MusicGen):
        return {"source": target, "variant": "musicgen", "parameters": model.parameters}
    folder = resolve(target)
    config = model.lm.config
    weights = [file for name in ("", "lm", "fine") if (file := folder / name / "model.safetensors").is_file()]
    count, fine = count_parameters(model.lm), count_parameters(model.fine.denoiser) if model.fine else 0
    trained = training_rows(folder / "lm" if model.fine else folder).get("trained")
    about = {
        "source": target,
        "folder": folder.name,
        "bytes": sum(file.stat().st_size for file in weights),
        "changed": max((file.stat().st_mtime_ns for file in weights), default=0),
        "variant": config.variant,
        "blocks": config.blocks,
        "codebooks": model.num_codebooks,
        "fine": model.fine.sizes.denoiser if model.fine else None,
        "pattern": config.pattern,
        "parameters": count + fine,
        "step": int(trained.split()[0]) if trained else None,
    }
    return about | ({"fine_parameters": fine} if fine else {})


def played_with(model: Ostinato | MusicGen) -> dict:
    """What else clips depend on: how a model is sampled, and its codec's sound."""
    if isinstance(model, MusicGen):
        return {}
    settings = {name: value for name, value in asdict(model.sampling).items() if value != ""}  # as before `negative`
    sampling = {"sampling": settings, "codec": sound_id(model.codec)}
    return sampling | ({"fine": asdict(model.fine.sampling)} if model.fine else {})


def watch_memory() -> None:
    """Begin a new `peak_memory`, where the system can (CUDA, Linux); elsewhere it counts since the process began."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Bytes: the largest the GPU's allocations have been, or without one this process, since `watch_memory`."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    import resource  # there is none on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def generation_flops(model: Ostinato, prompt: str, seconds: float) -> float:
    """FLOPs for each second of audio, text and codec included, as PyTorch counts the matrix products of a generation of
    so many. A Transformer needs more for later ones."""
    counter = FlopCounterMode(display=False)
    with counter:
        model.generate(prompt, seconds)
    return counter.get_total_flops() / seconds


def render_cut(
    name: str, real: dict[str, Path], codec: Codec, codebooks: int, out: Path, seconds: float, on_progress: OnProgress
) -> ClipSet:
    """Real clips, by stem, through the first `codebooks` codebooks of a codec. Raises UserError for more codebooks than
    the codec has."""
    if not 1 <= codebooks <= codec.num_codebooks:
        raise UserError(f"{codec.name} has {codec.num_codebooks} codebooks, and {codebooks} were asked")
    about = {"codec": codec.name, "codebooks": codebooks}
    begin_folder(out, {"codec": sound_id(codec), "codebooks": codebooks, "seconds": seconds})
    clips = ClipSet(name, {}, "codec", about=about)
    return through_codec(clips, real, codec, out, seconds, on_progress, lambda stem, codes: codes[:, :codebooks])


def render_refined(
    name: str,
    real: dict[str, Path],
    stage: FineStage,
    prompts: PromptSet,
    out: Path,
    seconds: float,
    seed: int,
    on_progress: OnProgress,
) -> ClipSet:
    """The first codebook of real clips, by their prompts' names, and a fine stage's others: what its model would play
    if its first stage never erred. Sentence and seed are those of the model's own clip. `out` is this stage's alone."""
    assert stage.text
    begin_folder(out, {"seconds": seconds, "seed": seed, "prompts": prompts.about.get("sha256")})
    about = {"codec": stage.codec.name, "fine": stage.sizes.denoiser, "parameters": count_parameters(stage.denoiser)}
    texts = {p.name: (stage.text([p.text]), seed + i) for i, p in enumerate(prompts.prompts) if p.name in real}
    empty = stage.text([""])

    def refine(stem: str, codes: Tensor) -> Tensor:
        text, own_seed = texts[stem]
        return torch.cat([inputs for _, inputs in stage.refine(codes[:, :1].unbind(-1), text, empty, [own_seed])], -1)

    clips = ClipSet(name, {}, "oracle", about=about)
    return through_codec(clips, real, stage.codec, out, seconds, on_progress, refine)


def through_codec(
    clips: ClipSet,
    real: dict[str, Path],
    codec: Codec,
    out: Path,
    seconds: float,
    on_progress: OnProgress,
    change: Callable[[str, Tensor], Tensor],
) -> ClipSet:
    """Fill `clips` with real ones decoded from their codes, made where `out` lacks them; those that cannot be read are
    lost. change: takes a clip's stem and codes [1, K, T], and gives the codes or latents to decode."""
    device = next(codec.parameters()).device  # type: ignore[attr-defined]
    for i, (stem, path) in enumerate(real.items()):
        on_progress(f"through the codec: {clips.name}", i, len(real))
        target = out / f"{stem}.wav"
        try:
            if not target.is_file():
                audio = read_audio(path, codec.sample_rate, seconds=seconds)
                codes = change(stem, codec.encode(audio[None].to(device)))
                whole = sound(codec, codes)[0, :, : audio.shape[-1]].clamp(-1, 1)
                write_audio(target, whole.cpu(), codec.sample_rate)
            clips.files[stem] = target
        except UserError as error:
            clips.lost[stem] = str(error)
    return clips


def clip_codes(clips: ClipSet, codec: Codec, seconds: float) -> dict[str, np.ndarray]:
    """Codes int64 [K, T] of clips that are not lost, by stem: as they were generated, where that was with this codec,
    or by `codec` from the audio."""
    found = {}
    here = fingerprint(codec)
    same = clips.about.get("codec_id", here) == here
    device = next(codec.parameters()).device  # type: ignore[attr-defined]
    for stem, path in clips.files.items():
        if stem in clips.lost:
            continue
        kept = path.parent / "codes" / f"{stem}.npy"
        try:
            if same and kept.is_file():
                found[stem] = np.load(kept).astype(np.int64)
            else:
                audio = read_audio(path, codec.sample_rate, seconds=seconds)
                found[stem] = codec.encode(audio[None].to(device))[0].cpu().numpy()
        except UserError as error:
            clips.lost.setdefault(stem, str(error))
    return found


def save_codes(path: Path, codes: np.ndarray) -> None:
    """Write codes [K, T] as int16 .npy, whole or not at all."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.save(file, codes.astype(np.int16))

    write_atomic(path, write)


def save_json(path: Path, values: Any) -> None:
    """Write JSON, whole or not at all."""
    write_atomic(path, lambda temporary: temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n"))
