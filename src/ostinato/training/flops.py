"""FLOPs of training, counted part by part from the sizes of a model: a language model's, a fine stage's."""

import math
from collections import Counter

from ostinato.models.denoisers import FineConfig
from ostinato.models.lm import VARIANTS, LMConfig
from ostinato.models.patterns import make_pattern


def step_flops(config: LMConfig | FineConfig, batch: int, frames: int, text: int) -> int:
    """FLOPs of one forward and backward pass over `batch` clips of `frames` frames, led by texts of `text` tokens
    (padding counted, as it is computed). A training step is `accumulation` of them, on every process.

    Model FLOPs: what activation checkpointing does twice is counted once. Divided by seconds and the peak of the
    device it is the model FLOPs utilisation (MFU). The parts are `flops`'s.
    """
    return sum(flops(config, batch, frames, text).values())


def flops(config: LMConfig | FineConfig, batch: int, frames: int, text: int) -> dict[str, int]:
    """`step_flops` by part. Products of matrices and convolutions, a multiplication and an addition being two FLOPs;
    not what is done element by element (norms, activations, dropout, decays, softmax, the optimizer), as is the custom.

    The backward pass costs two forward ones, and one where the input needs no gradient: the text, the noisy latent, the
    time. Causal attention counts the pairs on and below the diagonal, which is all a flash kernel computes. SSD is
    counted as the chunked algorithm of `ssd.py` over more than one chunk, its padding to whole chunks included.
    """
    if isinstance(config, LMConfig):
        parts = of_lm(config, frames, text)
    else:
        parts = (of_unet if config.denoiser == "unet" else of_simba)(config, frames, text)
    return {part: batch * count for part, count in parts.items()}


def of_lm(c: LMConfig, frames: int, text: int) -> Counter[str]:
    """Of one clip."""
    variant = VARIANTS[c.variant]
    pattern, d = make_pattern(c.pattern, c.num_codebooks), c.width
    S = pattern.length(frames)
    T = S + text if variant.text == "prefix" else S
    # With a prefix, attention is given a mask, and kernels with a mask compute every pair.
    pairs = T * T if variant.text == "prefix" else T * (T + 1) // 2
    forward = {  # of one sub-layer
        "mamba": mamba(c, T),
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
    parts: Counter[str] = Counter()
    for kind in variant.sublayers:
        for name, count in forward[kind].items():
            parts[name] += 3 * c.blocks * count
    parts["projection of the text"] = 2 * 2 * text * c.text_width * d
    places = sum(len(range(S)[pattern.places(k)]) for k in range(pattern.K))  # see `MusicLM.losses`
    parts["heads"] = 3 * 2 * places * d * (c.codebook_size + 1)
    return parts


def mamba(c: LMConfig | FineConfig, T: int) -> dict[str, int]:
    """Of one layer's forward pass over T frames."""
    d, n, inner = c.width, c.state, c.expand * c.width
    q = min(c.chunk, T)
    chunks = math.ceil(T / q)
    return {
        "mamba: projections": 2 * T * d * (2 * inner + 2 * n + inner // c.head_width) + 2 * T * inner * d,
        "mamba: convolution": 2 * T * c.conv * (inner + 2 * n),
        # The four numbered steps of `ssd`; the third, over chunks, is element by element.
        "mamba: state space (SSD)": chunks * (2 * q * q * (n + inner) + 2 * q * inner * n + 2 * q * n * inner),
    }


def of_unet(c: FineConfig, frames: int, text: int) -> Counter[str]:
    """Of one clip."""
    T = frames + -frames % 2 ** (len(c.multiples) - 1)
    levels = [(c.width * m, T >> i) for i, m in enumerate(c.multiples)]
    parts: Counter[str] = Counter()
    for i, (d, t) in enumerate(levels):
        middle = 2 if i == len(levels) - 1 else 0
        for inputs in [d] * (c.blocks + middle) + [2 * d] * c.blocks:
            skip = inputs * d if inputs != d else 0
            parts["residual convolutions"] += 3 * 2 * t * (3 * inputs * d + 3 * d * d + skip)
            parts["linear attention"] += 3 * 2 * t * (4 * d * d + 2 * d * d // c.heads)
            parts += heard(c, d, t, text)
            parts["time"] += 3 * 2 * c.width * 2 * d
        if i:
            above, longer = levels[i - 1]
            parts["between levels"] += 3 * 2 * (4 * t + 3 * longer) * above * d
    parts["time"] += (2 + 3) * 2 * c.width**2
    around = 3 if c.prediction_type == "v" else 1
    parts["in and out"] = 2 * T * c.width * c.multiples[0] * (2 * 3 * (c.coarse + c.fine) + 3 * around * c.outputs)
    return parts + odds(c, frames)


def of_simba(c: FineConfig, frames: int, text: int) -> Counter[str]:
    """Of one clip."""
    T, d = frames, c.width
    parts = Counter({name: c.blocks * 2 * 3 * count for name, count in mamba(c, T).items()})
    for name, count in heard(c, d, T, text).items():
        parts[name] = c.blocks * count
    parts["feed-forward"] = c.blocks * 3 * 2 * 2 * T * d * c.feed_forward
    parts["time"] = (2 + 3 + 3 * 9) * 2 * d * d
    parts["in and out"] = 2 * T * d * (2 * (c.coarse + c.fine) + 3 * c.outputs)
    return parts + odds(c, frames)


def odds(c: FineConfig, T: int) -> Counter[str]:
    """Of `diffusion.code_odds`, over T frames; nothing in it that is multiplied needs a gradient."""
    return Counter({"odds of the codes": 2 * T * c.outputs * c.latent_width} if c.prediction_type == "codes" else {})


def heard(c: FineConfig, d: int, T: int, text: int) -> Counter[str]:
    """Of one cross-attention of a denoiser, forward and backward: T frames of width d, and the text as it was read."""
    return Counter(
        {
            "cross-attention: projections": 3 * 2 * T * d * 2 * d + 2 * 2 * text * c.text_width * 2 * d,
            "cross-attention: pairs": 3 * 2 * 2 * T * text * d,
        }
    )
