"""Several captions of a clip become one description: by a language model that answers in JSON, or by rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ostinato.curate.clip import Clip, Drop
from ostinato.curate.endpoint import Endpoint
from ostinato.curate.stages import Context, Merge
from ostinato.utils.errors import UserError
from ostinato.utils.text_files import read_text

RULES = "rules (no language model)"
PROMPT = Path(__file__).with_name("prompts") / "merge.txt"
Ask = Callable[[str, int], str]  # a prompt and the number of the try -> an answer
SENTENCE = re.compile(r"(?<=[.!?])\s+")
# What captioners say of the recording rather than of the music.
OF_THE_RECORDING = re.compile(
    r"\b(low quality|poor (audio )?quality|(mono|noisy) recording|recording is (mono|noisy|of low)|"
    r"(amateur|live) recording|audio quality|background noise)\b",
    re.IGNORECASE,
)


def merge(options: Merge, context: Context) -> Callable[[Clip], Clip | Drop]:
    """Raises: UserError for a prompt file that cannot be read or has no {captions}, or a model that cannot be had."""
    if options.fallback not in ("rules", "drop"):
        raise UserError(f"merge.fallback {options.fallback!r}: give rules or drop")
    if not options.model:
        return lambda clip: by_rules(clip, options.max_words, RULES)
    prompt = read_prompt(options.prompt or str(PROMPT), "{captions}")
    ask, name = _asker(options, context)

    def apply(clip: Clip) -> Clip | Drop:
        if not clip.captions:
            return clip
        fault = ""
        for number in range(options.tries):
            answer = ask(prompt.replace("{captions}", listed(clip)), number)
            try:
                return replace(clip, caption=read_answer(answer, options.max_words), caption_by=name)
            except ValueError as error:
                fault = str(error)
        if options.fallback == "drop":
            return Drop("no usable answer of the language model", f"{options.tries} tries, the last: {fault}")
        return by_rules(clip, options.max_words, f"rules (after {options.tries} unusable answers of {name})")

    return apply


def read_prompt(path: str, needs: str = "") -> str:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompt {path} ({error}): check the name") from error
    if needs and needs not in text:
        raise UserError(f"the prompt {path} has no {needs}, where the captions are to go")
    return text


def listed(clip: Clip) -> str:
    """The captions as the prompt has them: one a line, with the seconds they are of."""
    return "\n".join(
        f"{said.start:.0f}-{said.start + said.seconds:.0f} s: {said.text}" if said.seconds else f"- {said.text}"
        for said in clip.captions
    )


def read_answer(answer: str, max_words: int) -> str:
    """The description in an answer: a JSON object {"caption": text}, alone, in a fence, or with words around it.
    Raises: ValueError, saying what is wrong, for anything else."""
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise ValueError("no JSON object" if answer.strip() else "no answer")
    try:
        held = json.loads(answer[start : end + 1])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON ({error})") from error
    text = held.get("caption") if isinstance(held, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError("no text under 'caption'")
    text = " ".join(text.split()).encode("utf-8", "replace").decode()
    if len(text.split()) < 3:
        raise ValueError(f"only {text!r}")
    if len(text.split()) > max_words:
        raise ValueError(f"{len(text.split())} words, over {max_words}")
    return text


def _asker(options: Merge, context: Context) -> tuple[Ask, str]:
    kind, _, name = options.model.partition(":")
    if kind == "transformers" and name:
        return _in_process(name, options, context), name
    endpoint = Endpoint(options.url, options.model, options.key_variable, options.timeout, options.patience_hours)

    def ask(prompt: str, number: int) -> str:
        # The first try is the same every time; a further one has to be another, or it would give the same answer.
        return endpoint.ask(
            [{"role": "user", "content": prompt}],
            temperature=options.temperature if number == 0 else min(1.0, options.temperature + 0.2 * number),
            max_tokens=options.max_tokens,
            seed=context.seed + number,
        )

    return ask, options.model


def _in_process(name: str, options: Merge, context: Context) -> Ask:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ostinato.utils.hub import fetch, load_model

    tokenizer: Any = fetch(AutoTokenizer.from_pretrained, name)
    model = load_model(AutoModelForCausalLM, name).to(context.device).eval()

    def ask(prompt: str, number: int) -> str:
        messages = [{"role": "user", "content": prompt}]
        text = prompt
        if getattr(tokenizer, "chat_template", None):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(text, return_tensors="pt").to(context.device)
        # The first answer is the likeliest one; only a further try draws, by a seed.
        sampling: dict[str, Any] = {"do_sample": False}
        if number:
            torch.manual_seed(context.seed + number)
            sampling = {"do_sample": True, "temperature": 0.7}
        with torch.inference_mode():
            out = model.generate(**tokens, max_new_tokens=options.max_tokens, **sampling)
        return tokenizer.decode(out[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask


def by_rules(clip: Clip, max_words: int, by: str) -> Clip:
    """The description made of whole sentences of the captions: each once, in order, none about the recording, as many
    as fit. One caption is taken as it is, and of none there comes none; nothing is invented or made smoother."""
    texts = [said.text for said in clip.captions]
    if not texts:
        return clip
    caption = join_sentences(texts, max_words) if len(texts) > 1 else ""
    if not caption:
        return replace(clip, caption=" ".join(texts[0].split()), caption_by=clip.captions[0].by)
    return replace(clip, caption=caption, caption_by=by)


def join_sentences(texts: Sequence[str], max_words: int) -> str:
    """See `by_rules`. A sentence whose words mostly stand in one before it says nothing new."""
    chosen: list[str] = []
    sets: list[set[str]] = []
    count = 0
    for text in texts:
        for sentence in SENTENCE.split(" ".join(text.split())):
            words = set(re.findall(r"[a-z0-9'-]+", sentence.lower()))
            if not words or OF_THE_RECORDING.search(sentence):
                continue
            if any(len(words & other) > 0.6 * len(words | other) for other in sets):
                continue
            if chosen and count + len(sentence.split()) > max_words:
                continue
            chosen.append(sentence if sentence[-1] in ".!?" else f"{sentence}.")
            sets.append(words)
            count += len(sentence.split())
    return " ".join(chosen)
