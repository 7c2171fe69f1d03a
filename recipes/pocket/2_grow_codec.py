"""Give a pocket codec more codebooks: python recipes/pocket/2_grow_codec.py CODEC OUT COUNT

CODEC: pocket, or the folder of a codec or of a model with one. The first codebooks, the encoder and the decoder stay
what they are. The new codebooks add nothing to the sound until they are trained: their way out is zero.
"""

import dataclasses
import sys

import torch

from ostinato.codecs.pocket import PocketCodec
from ostinato.training.init_from import init_folder
from ostinato.utils.errors import UserError


def grow(codec: PocketCodec, count: int) -> PocketCodec:
    """The codec with `count` codebooks, of which the first are its own. Raises UserError if it has that many."""
    had = codec.num_codebooks
    if count <= had:
        raise UserError(f"the codec has {had} codebooks already; ask for more than {had}, not {count}")
    grown = PocketCodec(dataclasses.replace(codec.config, num_codebooks=count))
    weights = grown.state_dict()
    for name, values in codec.state_dict().items():
        if weights[name].shape == values.shape:
            weights[name] = values
        else:  # what has a row for each codebook
            weights[name][:had] = values
    for name in weights:
        if name.startswith("quantiser.out.") and int(name.split(".")[2]) >= had:
            weights[name].zero_()
    grown.load_state_dict(weights)
    return grown.eval()


if __name__ == "__main__":
    torch.manual_seed(0)
    try:
        codec = PocketCodec.from_pretrained(init_folder(sys.argv[1], "codec"))
        grow(codec, int(sys.argv[3])).save_pretrained(sys.argv[2])
    except UserError as error:
        sys.exit(f"2_grow_codec.py: {error}")
