"""Waveform <-> codes [b, K, T]. A codec of your own: a class with the methods of `base.Codec`, a branch in `load`.

    base     `Codec`, the interface that every codec has, and the checks they share
    load     `load_codec`: by short name, folder or hub id
    dac      the papers' codec; encodec: MusicGen's; both are transformers' networks, frozen
    pocket   the small codec of this project, which is trained here and ships
    losses   what the pocket codec is trained against

Trained in `training.codec_task`; measured by `benchmarks/codec.py`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["Codec", "fingerprint"],
        "load": ["load_codec"],
        "pocket": ["PocketCodec", "PocketConfig"],
    },
)
