"""From a folder of audio to a store of clips to train on, and back.

    prepare    `ostinato prepare`: finds files, cuts and encodes them, resumes, writes report.csv
    request    what it is asked, checked before torch is loaded
    clips      one audio file becomes rows of the store
    captions   what is said about a file: captions, title, artist, licence, split; sidecars and tables
    store      the store: Parquet shards of codes or 16-bit PCM, and `Store`, which reads them

Tracks that are not ready to prepare (long, sung, without captions) go through `ostinato curate` first.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "store": ["Store", "open_store"],
    },
)
