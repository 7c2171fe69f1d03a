"""Voices in the sound itself: the likelihood that a tagger gives to its classes of voices, at the loudest of a clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ostinato.curate.clip import Clip, Drop
from ostinato.curate.stages import Context, Voices
from ostinato.utils.errors import UserError

# AudioSet's classes of human voices that speak or sing, and the one of MTG-Jamendo's tags. Its "Shout", "Crowd" and
# laughter are left out: instruments and noise raise them.
VOICES = frozenset(
    (
        "Speech",
        "Male speech, man speaking",
        "Female speech, woman speaking",
        "Child speech, kid speaking",
        "Conversation",
        "Narration, monologue",
        "Speech synthesizer",
        "Whispering",
        "Singing",
        "Choir",
        "Yodeling",
        "Chant",
        "Mantra",
        "Male singing",
        "Female singing",
        "Child singing",
        "Synthetic singing",
        "Rapping",
        "Humming",
        "Vocal music",
        "A capella",
        "Beatboxing",
        "instrument---voice",
    )
)


def voices(options: Voices, context: Context) -> Callable[[Clip], Clip | Drop]:
    """Raises: UserError for a tagger that cannot be had, or whose classes are not named."""
    from ostinato.evaluation.networks.base import load_listener

    tagger: Any = load_listener(options.tagger, context.device)
    chosen = voice_classes(getattr(tagger, "labels", ()), options.tagger)

    def apply(clip: Clip) -> Clip | Drop:
        probability = voice_probability(tagger, chosen, clip.audio, clip.rate, context.device)
        if probability >= options.threshold and options.threshold < 1:
            told = f"probability {probability:.2f}, from {options.threshold:g} on"
            return Drop("a voice is heard", told, {"vocal_probability": probability})
        return clip.with_measured(vocal_probability=probability)

    return apply


def voice_classes(labels: Sequence[str], name: str) -> list[int]:
    chosen = [i for i, label in enumerate(labels) if label in VOICES]
    if not chosen:
        why = (
            "class_labels_indices.csv is wanted beside its weights" if not labels else "none of its classes is a voice"
        )
        raise UserError(f"{name} cannot tell voices ({why}): take efficientat:FILE, passt or jamendo:FILE")
    return chosen


def voice_probability(tagger: Any, chosen: list[int], audio: np.ndarray, rate: int, device: str) -> float:
    """The greatest probability of any class of voices in any window of audio [samples]. A window of silence has none:
    what networks make of digital zeros means nothing."""
    import soxr
    import torch

    if not np.abs(audio).max(initial=0.0) > 1e-4:
        return 0.0
    at = np.asarray(soxr.resample(audio, rate, tagger.sample_rate, quality="HQ"), dtype=np.float32)
    with torch.inference_mode():
        logits = tagger.tags(torch.from_numpy(at).to(device))
    return float(logits[..., chosen].sigmoid().max())
