"""A model small enough to be many times faster than real time, with a text encoder that reads, and an engine on it."""

import torch
from tiny import POCKET, make_codec, make_lm

from ostinato.generation.pipeline import Ostinato
from ostinato.generation.sampling import Sampling
from ostinato.studio.engine import Engine, Limits


class Letters:
    """A text encoder of 12 numbers a letter, fixed at random."""

    name, width = "letters", 12

    def __call__(self, texts):
        table = torch.randn(128, 12, generator=torch.Generator().manual_seed(0))
        rows = [table[torch.tensor([ord(c) % 128 for c in text] or [0])] for text in texts]
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(r), dtype=torch.bool) for r in rows], batch_first=True)
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


def make_model(seed=0):
    sizes = {"blocks": 1, "codebook_size": 32, "chunk": 16}
    lm = make_lm(K=POCKET.num_codebooks, pattern="delay", dtype=torch.float32, seed=seed, **sizes)
    return Ostinato(lm, Letters(), make_codec(), {"codec": "codec", "text": "letters"}, Sampling(2.0, 1.0, 8))


def make_engine(**limits):
    return Engine({"small": make_model(), "other": make_model(1)}, Limits(**limits))
