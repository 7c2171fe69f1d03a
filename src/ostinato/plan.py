"""What a training run will cost, before anything runs: FLOPs, memory, hours."""

import math

from ostinato.lm import VARIANTS, LMConfig
from ostinato.patterns import make_pattern


def step_flops(config: LMConfig, batch: int, frames: int, text: int) -> int:
    """FLOPs of one forward and backward pass over `batch` clips of `frames` frames, led by texts of `text` tokens
    (padding counted, as it is computed). A training step is `accumulation` of them, on every process.

    Model FLOPs: what activation checkpointing does twice is counted once. Divided by seconds and the peak of the
    device it is the model FLOPs utilisation (MFU). The parts are `flops`'s.
    """
    return sum(flops(config, batch, frames, text).values())


def flops(config: LMConfig, batch: int, frames: int, text: int) -> dict[str, int]:
    """`step_flops` by part. Products of matrices and the convolution, a multiplication and an addition being two FLOPs;
    not what is done element by element (norms, activations, dropout, decays, softmax, the optimizer), as is the custom.

    The backward pass costs two forward ones, but for the projection of the text, whose input needs no gradient. Causal
    attention counts the pairs on and below the diagonal, which is all a flash kernel computes. SSD is counted as the
    chunked algorithm of `ssd.py` over more than one chunk, its padding to whole chunks included.
    """
    c, variant = config, VARIANTS[config.variant]
    S = make_pattern(c.pattern, c.num_codebooks).length(frames)
    T = S + text if variant.text == "prefix" else S
    d, n, inner = c.width, c.state, c.expand * c.width
    q = min(c.chunk, T)
    chunks = math.ceil(T / q)
    # With a prefix, attention is given a mask, and kernels with a mask compute every pair.
    pairs = T * T if variant.text == "prefix" else T * (T + 1) // 2
    forward = {  # of one sub-layer, one clip
        "mamba": {
            "mamba: projections": 2 * T * d * (2 * inner + 2 * n + inner // c.head_width) + 2 * T * inner * d,
            "mamba: convolution": 2 * T * c.conv * (inner + 2 * n),
            # The four numbered steps of `ssd`; the third, over chunks, is element by element.
            "mamba: state space (SSD)": chunks * (2 * q * q * (n + inner) + 2 * q * inner * n + 2 * q * n * inner),
        },
        "self-attention": {
            "self-attention: projections": 2 * T * d * 4 * d,
            "self-attention: pairs": 2 * 2 * pairs * d,
        },
        "cross-attention": {
            "cross-attention: projections": 2 * T * d * 2 * d + 2 * text * d * 2 * d,
            "cross-attention: pairs": 2 * 2 * T * text * d,
        },
        "feed-forward": {"feed-forward": 2 * 2 * T * d * c.feed_forward},
    }
    parts: dict[str, int] = {}
    for kind in variant.sublayers:
        for name, count in forward[kind].items():
            parts[name] = parts.get(name, 0) + 3 * batch * c.blocks * count
    parts["projection of the text"] = 2 * batch * 2 * text * c.text_width * d
    parts["heads"] = 3 * batch * 2 * S * d * c.num_codebooks * (c.codebook_size + 1)
    return parts
