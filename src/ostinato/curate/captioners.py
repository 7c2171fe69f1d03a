"""Captions of what a clip sounds like: LP-MusicCaps, a captioner of `transformers`, or a model behind an endpoint."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.curate.clip import Clip, Drop, Said
from ostinato.curate.endpoint import Endpoint
from ostinato.curate.merge import read_prompt
from ostinato.curate.stages import Caption, Context
from ostinato.utils.errors import UserError

PROMPT = Path(__file__).with_name("prompts") / "caption.txt"
KINDS = "lp-musiccaps, lp-musiccaps:FILE, transformers:NAME or endpoint:NAME"
ENDPOINT_RATE = 16000  # Hz: what speech and audio language models hear anyway
Hear = Callable[[list[np.ndarray], int], list[str]]  # pieces [samples] and their rate -> a caption each


def caption(options: Caption, context: Context) -> Callable[[Clip], Clip | Drop]:
    """Adds a caption for every `every` seconds of a clip; a last piece of under half of that is left to the one before.

    Raises: UserError for a model that cannot be had, saying what to fetch."""
    if options.every <= 0:
        raise UserError(f"caption.every {options.every}: give the seconds of audio per caption, above 0")
    hear, name = load_captioner(options, context)

    def apply(clip: Clip) -> Clip | Drop:
        starts, pieces = windows(clip.audio, clip.rate, options.every)
        texts = [" ".join(text.split()) for text in hear(pieces, clip.rate)]
        said = [
            Said(text, name, start, len(piece) / clip.rate)
            for start, piece, text in zip(starts, pieces, texts, strict=True)
            if text
        ]
        if not said:
            return Drop("the captioner says nothing", name)
        return replace(clip, captions=(*clip.captions, *said), caption="", caption_by="")

    return apply


def windows(audio: np.ndarray, rate: int, every: float) -> tuple[list[float], list[np.ndarray]]:
    """audio [samples] in consecutive pieces: their starts in s, and they themselves."""
    size = round(every * rate)
    count = max(1, int(len(audio) / size + 0.5))
    edges = [i * size for i in range(count)] + [len(audio)]
    return [edge / rate for edge in edges[:-1]], [audio[a:b] for a, b in pairwise(edges)]


def load_captioner(options: Caption, context: Context) -> tuple[Hear, str]:
    kind, colon, name = options.model.partition(":")
    if kind == "lp-musiccaps":
        return _lp_musiccaps(options, name, context), "lp-musiccaps"
    if kind == "transformers" and colon and name:
        return _transformers(options, name, context), name
    if kind == "endpoint" and colon and name:
        return _endpoint(options, name), name
    raise UserError(f"caption.model {options.model!r}: give {KINDS}")


def _resampled(piece: np.ndarray, rate: int, to: int) -> np.ndarray:
    import soxr

    return np.asarray(soxr.resample(piece, rate, to, quality="HQ"), dtype=np.float32)


def _lp_musiccaps(options: Caption, weights: str, context: Context) -> Hear:
    import torch

    from ostinato.curate.lp_musiccaps import SAMPLE_RATE, SECONDS, load_lp_musiccaps

    model = load_lp_musiccaps(weights, options.bart, context.device)
    size = SAMPLE_RATE * SECONDS

    def hear(pieces: list[np.ndarray], rate: int) -> list[str]:
        heard = torch.zeros(len(pieces), size)
        for row, piece in zip(heard, pieces, strict=True):
            part = torch.from_numpy(_resampled(piece, rate, SAMPLE_RATE))[:size]
            row[: len(part)] = part
        return model.captions(heard.to(context.device), options.beams, options.max_tokens)

    return hear


def _transformers(options: Caption, name: str, context: Context) -> Hear:
    """Two families: models that turn sound into text (Whisper and its kin, as trained for captions), and language
    models that are shown sound in a conversation (Qwen2-Audio, Qwen3-Omni, Music Flamingo)."""
    import torch
    from transformers import AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq, AutoProcessor

    from ostinato.utils.hub import fetch, load_model, model_type

    processor: Any = fetch(AutoProcessor.from_pretrained, name)
    talks = bool(getattr(processor, "chat_template", None)) and model_type(name) != "whisper"
    model = load_model(AutoModelForMultimodalLM if talks else AutoModelForSpeechSeq2Seq, name).to(context.device).eval()
    wanted = int(processor.feature_extractor.sampling_rate)
    prompt = read_prompt(options.prompt or str(PROMPT)).strip()

    def heard(audio: np.ndarray) -> str:
        if talks:
            content = [{"type": "audio", "audio": audio}, {"type": "text", "text": prompt}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            given = processor(text=text, audio=[audio], sampling_rate=wanted, return_tensors="pt")
        else:
            given = processor.feature_extractor(audio, sampling_rate=wanted, return_tensors="pt")
        given = given.to(context.device)
        with torch.inference_mode():
            tokens = model.generate(**given, max_new_tokens=options.max_tokens, num_beams=1 if talks else options.beams,
                                    do_sample=False)  # fmt: skip
        new = tokens[:, given["input_ids"].shape[1] :] if talks else tokens
        return processor.batch_decode(new, skip_special_tokens=True)[0]

    return lambda pieces, rate: [heard(_resampled(piece, rate, wanted)) for piece in pieces]


def _endpoint(options: Caption, name: str) -> Hear:
    endpoint = Endpoint(options.url, name, options.key_variable, options.timeout, options.patience_hours)
    prompt = read_prompt(options.prompt or str(PROMPT)).strip()

    def heard(piece: np.ndarray, rate: int) -> str:
        data = base64.b64encode(_wav(_resampled(piece, rate, ENDPOINT_RATE), ENDPOINT_RATE)).decode()
        sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        content = [{"type": "text", "text": prompt}, sound]
        for number in range(options.tries):
            answer = endpoint.ask(
                [{"role": "user", "content": content}], temperature=0.2 * number, max_tokens=options.max_tokens
            )
            if answer.strip():
                return answer
        return ""

    return lambda pieces, rate: [heard(piece, rate) for piece in pieces]


def _wav(audio: np.ndarray, rate: int) -> bytes:
    import soundfile as sf

    held = io.BytesIO()
    sf.write(held, audio, rate, format="WAV", subtype="PCM_16")
    return held.getvalue()
