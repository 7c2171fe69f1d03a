"""Which clips a listener hears, and in which order: at random, and so that every clip is heard as often."""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ostinato.studio.listen.manifest import ListeningTest

Heard = Mapping[tuple[int, tuple[int, ...]], int]  # pages that listeners have had, by prompt and systems (ascending)


@dataclass(frozen=True)
class Page:
    """A prompt, and the files of its clips in the order they are shown."""

    prompt: int
    files: tuple[str, ...]


def assign(test: ListeningTest, heard: Heard, rng: np.random.Generator) -> list[Page]:
    """The pages of a new listener: the prompts (or pairs) with the fewest listeners so far, those alike at random."""
    chosen = choose_pairs(test, heard, rng) if test.mode == "pairs" else choose_prompts(test, heard, rng)
    pages = []
    for prompt, systems in chosen:
        clips = test.of_prompt(prompt)
        pages.append(Page(prompt, tuple(clips[int(j)].file for j in rng.permutation(systems))))
    return with_attention(test, pages, rng)


def choose_prompts(test: ListeningTest, heard: Heard, rng: np.random.Generator) -> list[tuple[int, tuple[int, ...]]]:
    """Prompts of a session, each with all systems, as the paper has it."""
    counts: Counter[int] = Counter()
    for (prompt, _), n in heard.items():
        counts[prompt] += n
    luck = rng.random(len(test.prompts))
    order = sorted(range(len(test.prompts)), key=lambda p: (counts[p], luck[p]))[: test.session]
    everyone = tuple(range(len(test.systems)))
    return [(int(p), everyone) for p in rng.permutation(order)]


def choose_pairs(test: ListeningTest, heard: Heard, rng: np.random.Generator) -> list[tuple[int, tuple[int, ...]]]:
    """Pairs of systems, each with a prompt of its own."""
    pairs = list(itertools.combinations(range(len(test.systems)), 2))
    of_pair: Counter[tuple[int, ...]] = Counter()
    of_prompt: Counter[int] = Counter()
    for (prompt, pair), n in heard.items():
        of_pair[pair] += n
        of_prompt[prompt] += n
    chosen: list[tuple[int, tuple[int, ...]]] = []
    left = set(range(len(test.prompts)))
    for _ in range(test.session):
        luck = iter(rng.random(len(pairs) + len(left)))
        pair = min(pairs, key=lambda p: (of_pair[p], next(luck)))
        prompt = min(sorted(left), key=lambda p: (heard.get((p, pair), 0), of_prompt[p], next(luck)))
        of_pair[pair] += 1
        of_prompt[prompt] += 1
        left.remove(prompt)
        chosen.append((prompt, pair))
    return chosen


def with_attention(test: ListeningTest, pages: list[Page], rng: np.random.Generator) -> list[Page]:
    """The same with an attention clip, where the test has them: one clip more in a page, or one pair more."""
    at = int(rng.integers(len(pages)))
    page = pages[at]
    attention = test.attention_of(page.prompt)
    if attention is None:
        return pages
    beside = list(page.files) if test.mode == "scales" else [page.files[0]]
    beside.insert(int(rng.integers(len(beside) + 1)), attention.file)
    extra = Page(page.prompt, tuple(beside))
    kept = pages[: at + 1] if test.mode == "pairs" else pages[:at]
    return [*kept, extra, *pages[at + 1 :]]
