"""Clips and models held against real music: `ostinato evaluate`, `ostinato report`. Read `evaluate` first.

evaluate       the whole of it, row by row; prompts: the sentences; generate: the clips made of them
metrics        the numbers as pure functions, each with an interval
registry       metrics by network; one of your own: a function in `metrics`, an entry and a branch here
embed          clips through a network, kept on disk
networks/      OpenL3, PaSST, VGGish, CLAP and small taggers, checked against the originals
baselines/     MusicGen
degenerate, descriptors            silence, hum, loops; loudness, brightness, tempo
memorisation, train_overlap        does a model repeat what it was trained on?
reporting/     results.json as tables and figures, the papers' numbers beside
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "evaluate": ["Settings"],
        "prompts": ["load_prompts"],
        "reporting.report": ["report"],
    },
)
