"""Ostinato: text to music with state-space language models over audio-codec tokens."""

from typing import TYPE_CHECKING

from ostinato.utils.errors import UserError

if TYPE_CHECKING:
    from ostinato.generation.pipeline import Clip, Ostinato, load
    from ostinato.generation.sampling import Sampling

__version__ = "0.1.0"
__all__ = ["Clip", "Ostinato", "Sampling", "UserError", "load"]


def __getattr__(name: str) -> object:
    """`load`, `Ostinato`, `Clip`, `Sampling`, imported on first use: torch and transformers take seconds."""
    if name in ("load", "Ostinato", "Clip"):
        from ostinato.generation import pipeline as model

        return getattr(model, name)
    if name == "Sampling":
        from ostinato.generation.sampling import Sampling

        return Sampling
    raise AttributeError(f"module 'ostinato' has no attribute {name!r}")
