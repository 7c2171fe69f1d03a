"""The networks, as plain `nn.Module`s for one device. Read `lm` first, then `mamba`, `ssd` and `attention`.

    lm            the language model: codes and text in, the next codes' logits out; a variant is a line of data
    mamba, ssd    the Mamba-2 layer and its recurrence, in parallel (`forward`) and frame by frame (`step`)
    attention     self-attention with a key/value cache, cross-attention to the text
    layout, norm  how weights lie in memory, and RMS norm: both for a fast frame
    patterns      how K codebooks over T frames become one sequence
    text_encoder  a caption to one vector a token, frozen; minilm: the network of the small one
    denoisers     the fine stage's networks: a U-Net and a bidirectional SiMBA
    lora          low-rank adapters

A generated frame: `lm.start(text)` -> state; `lm.step(codes, state)` -> logits; again with the codes sampled from them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "lm": ["LMConfig", "LMState", "MusicLM", "VARIANTS", "count_parameters"],
        "patterns": ["Pattern", "make_pattern"],
        "text_encoder": ["TextEncoder", "load_text_encoder"],
        "denoisers": ["FineConfig", "make_denoiser"],
    },
)
