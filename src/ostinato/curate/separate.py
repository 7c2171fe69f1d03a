"""Vocals out of the mix, by Hybrid Transformer Demucs (arXiv 2211.08553; package `demucs`) or by Spleeter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.curate.clip import Clip, Drop
from ostinato.curate.stages import Context, Separate, loudness
from ostinato.utils.errors import UserError

VOCALS = "vocals"
FETCH = (
    "fetch it once where the Hugging Face hub is reachable (its cache is then enough), or give the file as "
    "separate.weights=FILE.safetensors (huggingface.co/adefossez/HTDemucs) or FILE.th"
)


def separate(options: Separate, context: Context) -> Callable[[Clip], Clip | Drop]:
    """Raises: UserError for weights that cannot be had, a model without a stem `vocals`, or an unknown `vocals`."""
    if options.vocals not in ("remove", "drop"):
        raise UserError(f"separate.vocals {options.vocals!r}: give remove or drop; leave the line out to keep them")
    model = load_separator(options.weights, context.device)
    name = Path(options.weights).stem

    def apply(clip: Clip) -> Clip | Drop:
        vocals, rest = split(model, clip.audio, clip.rate, options.overlap, context.device)
        level = loudness(vocals) - max(loudness(clip.audio), -100.0)
        clip = clip.with_measured(vocal_db=level)
        if options.vocals == "remove":
            return replace(clip, audio=rest, separated_by=name)
        if level > options.loud_db:
            told = f"{level:.1f} dB of the mix, over {options.loud_db:g}"
            return Drop("vocals in the mix", told, {"vocal_db": level})
        return clip

    return apply


def load_separator(weights: str, device: str) -> Any:
    """A model of demucs by name, from a .th or .safetensors file, or from a folder of .th files with a bag's .yaml; or
    "spleeter"."""
    if weights == "spleeter":
        from ostinato.curate.spleeter import load_spleeter

        return load_spleeter(device)
    try:
        from demucs.apply import BagOfModels
        from demucs.hf import get_hf_model, load_safetensors_model
        from demucs.repo import AnyModelRepo, BagOnlyRepo, LocalRepo
        from demucs.states import load_model
    except ImportError as error:
        raise UserError("the stage separate needs the package demucs: pip install 'ostinato[curate]'") from error
    path = Path(weights)
    model: Any
    try:
        if path.suffix == ".safetensors":
            model = load_safetensors_model(path)
        elif path.suffix == ".th":
            model = load_model(path)
        elif path.is_dir():
            repo = LocalRepo(path)
            bags = sorted(path.glob("*.yaml"))
            model = AnyModelRepo(repo, BagOnlyRepo(path, repo)).get_model(bags[0].stem if bags else _signature(path))
        else:
            # Not demucs.pretrained.get_model: where the hub fails it tries another server, and loads pickles from it.
            model = get_hf_model(weights)
    except Exception as error:  # of the hub, of torch.load, of a file of another kind
        told = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"no weights of {weights!r} ({told}): {FETCH}") from error
    bag = model if isinstance(model, BagOfModels) else BagOfModels([model])
    if VOCALS not in bag.sources:
        raise UserError(f"{weights} separates {', '.join(bag.sources)}: it has no stem {VOCALS!r}")
    return bag.to(device).eval()


def _signature(folder: Path) -> str:
    files = sorted(folder.glob("*.th"))
    if not files:
        raise UserError(f"no .th file in {folder}")
    return files[0].stem.partition("-")[0]


def split(model: Any, audio: np.ndarray, rate: int, overlap: float, device: str) -> tuple[np.ndarray, np.ndarray]:
    """A mono mix [samples] at `rate` -> its vocals and all else, as long and at the same rate.

    With demucs, the accompaniment is the sum of the other stems, as its `--two-stems` has it."""
    import soxr
    import torch

    mix = soxr.resample(audio, rate, model.samplerate, quality="HQ").astype(np.float32)
    both = torch.from_numpy(mix)[None].repeat(model.audio_channels, 1)
    with torch.inference_mode():
        if hasattr(model, "sources"):
            vocals, rest = _demucs(model, both, overlap, device)
        else:
            vocals = model(both.to(device)).mean(0).cpu().numpy()
            rest = mix - vocals
    back = [soxr.resample(stem, model.samplerate, rate, quality="HQ") for stem in (vocals, rest)]
    fitted = [np.pad(stem[: len(audio)], (0, max(0, len(audio) - len(stem)))).astype(np.float32) for stem in back]
    return fitted[0], fitted[1]


def _demucs(model: Any, both: Any, overlap: float, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Stereo [2, samples] -> mono vocals and all else. No random shifts: the same every time."""
    from demucs.apply import apply_model

    # As demucs does it for a file: the model was trained on mixes of mean 0 and standard deviation 1.
    mean, deviation = float(both.mean()), float(both.std()) or 1.0
    stems = apply_model(model, (both[None] - mean) / deviation, shifts=0, split=True, overlap=overlap, device=device)
    stems = stems[0].mean(1).cpu() * deviation + mean / len(model.sources)
    at = model.sources.index(VOCALS)
    return stems[at].numpy(), (stems.sum(0) - stems[at]).numpy()
