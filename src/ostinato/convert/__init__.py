"""Checkpoints of others become model folders.

official   the paper's authors' Lightning checkpoints: `ostinato import-official`
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "official": ["import_checkpoint"],
    },
)
