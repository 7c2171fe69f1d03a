"""Small models and sounds that several tests share."""

import numpy as np
import torch

from ostinato.codecs.pocket import PocketCodec, PocketConfig
from ostinato.models.lm import LMConfig, MusicLM

TEXT = 12  # width of the made-up text embeddings
PATTERNS = [(1, "single"), (3, "delay"), (3, "flatten")]
POCKET = PocketConfig(8000, 160, 640, 32, 1, 3, 32, 4, lookahead=1)  # 50 frames a second


def make_lm(variant="prefix-simba", K=1, pattern="single", seed=0, dtype=torch.float64, **changes):
    """A language model in evaluation mode whose weights are large enough for the logits to differ widely."""
    sizes = {"text_width": TEXT, "width": 32, "blocks": 2, "heads": 4, "feed_forward": 48, "state": 5, "head_width": 16}
    config = LMConfig(variant, K, pattern, **{"codebook_size": 7, "chunk": 3, **sizes} | changes)
    torch.manual_seed(seed)
    lm = MusicLM(config).to(dtype)
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(torch.randn_like(p) * (0.2 if p.ndim > 1 else 0.1))
    return lm.eval()


def make_text(*lengths, seed=0, width=TEXT, dtype=torch.float64):
    """Embeddings and mask of made-up texts, padded on the right with zeros, as a text encoder gives them."""
    g = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n, width, generator=g, dtype=torch.float64).to(dtype) for n in lengths]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


def make_codec(seed=0, config=POCKET):
    torch.manual_seed(seed)
    return PocketCodec(config).eval()


def melody(seconds, notes=(0, 4, 7, 12), rate=8000, seed=0):
    """float32 [samples]: four notes a second over their octave below, with a little noise."""
    n = round(seconds * rate)
    t = np.arange(n) / rate
    tone = np.array([220 * 2 ** (note / 12) for note in notes])[(4 * t).astype(int) % len(notes)]
    phase = 2 * np.pi * np.cumsum(tone) / rate
    fade = 1 - 0.8 * (4 * t % 1)
    noise = np.random.default_rng(seed).standard_normal(n)
    return (fade * (0.3 * np.sin(phase) + 0.2 * np.sin(phase / 2)) + 0.01 * noise).astype("f4")
