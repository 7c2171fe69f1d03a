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
SPEECH = frozenset(
    (
        "Speech",
        "Male speech, man speaking",
        "Female speech, woman speaking",
        "Child speech, kid speaking",
        "Conversation",
        "Narration, monologue",
        "Speech synthesizer",
        "Whispering",
    )
)
SINGING = frozenset(
    (
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
    classes = voice_classes(getattr(tagger, "labels", ()), options.tagger)

    def apply(clip: Clip) -> Clip | Drop:
        any_voice, singing = voice_probabilities(tagger, classes, clip.audio, clip.rate, context.device)
        measured = {"vocal_probability": any_voice, "singing_probability": singing}
        found = (("a voice", any_voice, options.threshold), ("singing", singing, options.singing))
        for what, probability, threshold in found:
            if threshold < 1 and probability >= threshold:
                return Drop("a voice is heard", f"{what}: {probability:.2f}, from {threshold:g} on", measured)
        return clip.with_measured(**measured)

    return apply


def voice_classes(labels: Sequence[str], name: str) -> tuple[list[int], list[int]]:
    """The numbers of all classes of voices, and of those that sing."""
    singing = [i for i, label in enumerate(labels) if label in SINGING]
    chosen = [i for i, label in enumerate(labels) if label in SPEECH | SINGING]
    if not chosen:
        why = (
            "class_labels_indices.csv is wanted beside its weights" if not labels else "none of its classes is a voice"
        )
        raise UserError(f"{name} cannot tell voices ({why}): take efficientat:FILE, passt or jamendo:FILE")
    return chosen, singing


def voice_probabilities(
    tagger: Any, classes: tuple[list[int], list[int]], audio: np.ndarray, rate: int, device: str
) -> tuple[float, float]:
    """The greatest probability of any class of voices, and of any that sings, in any window of audio [samples]. Silence
    has none: what networks make of digital zeros means nothing."""
    import soxr
    import torch

    if not np.abs(audio).max(initial=0.0) > 1e-4:
        return 0.0, 0.0
    at = np.asarray(soxr.resample(audio, rate, tagger.sample_rate, quality="HQ"), dtype=np.float32)
    with torch.inference_mode():
        heard = tagger.tags(torch.from_numpy(at).to(device)).sigmoid()
    any_voice, singing = (float(heard[..., chosen].max()) if chosen else 0.0 for chosen in classes)
    return any_voice, singing
