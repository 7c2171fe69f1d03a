"""Give a pocket codec more codebooks: python recipes/pocket/2_grow_codec.py CODEC OUT COUNT [--lookahead N]

CODEC: pocket, or the folder of a codec or of a model with one. The first codebooks, the encoder and the decoder stay
what they are. The new codebooks add nothing to the sound until they are trained: their way out is zero.

With --lookahead, each block of the decoder sees N frames after a frame in place of 3, and more of those before: a
stream sounds sooner. Its kernels keep what they had for the frames they still see; training makes good the rest.
"""

import argparse
import dataclasses
import sys

import torch
import torch.nn.functional as F

from ostinato.codecs.pocket import PocketCodec
from ostinato.training.init_from import init_folder
from ostinato.utils.errors import UserError


def grow(codec: PocketCodec, count: int, lookahead: int | None = None) -> PocketCodec:
    """The codec with `count` codebooks, of which the first are its own, and a decoder whose blocks see `lookahead`
    frames after a frame, by default as many as they do. Raises UserError for fewer codebooks, or a longer view, than it
    has."""
    had, saw = codec.num_codebooks, codec.config.lookahead
    lookahead = saw if lookahead is None else lookahead
    if count < had:
        raise UserError(f"the codec has {had} codebooks already; ask for {had} or more, not {count}")
    if not 0 <= lookahead <= saw:
        raise UserError(f"the codec's decoder sees {saw} frames ahead; ask for 0 to {saw}, not {lookahead}")
    grown = PocketCodec(dataclasses.replace(codec.config, num_codebooks=count, lookahead=lookahead))
    weights = grown.state_dict()
    for name, values in codec.state_dict().items():
        if name.startswith("decoder.") and name.endswith("mix.weight"):
            weights[name] = F.pad(values, (saw - lookahead, lookahead - saw))
        elif weights[name].shape == values.shape:
            weights[name] = values
        else:  # what has a row for each codebook
            weights[name][:had] = values
    for name in weights:
        if name.startswith("quantiser.out.") and int(name.split(".")[2]) >= had:
            weights[name].zero_()
    grown.load_state_dict(weights)
    return grown.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codec")
    parser.add_argument("out")
    parser.add_argument("count", type=int)
    parser.add_argument("--lookahead", type=int, metavar="N")
    args = parser.parse_args()
    torch.manual_seed(0)
    try:
        codec = PocketCodec.from_pretrained(init_folder(args.codec, "codec"))
        grow(codec, args.count, args.lookahead).save_pretrained(args.out)
    except UserError as error:
        sys.exit(f"2_grow_codec.py: {error}")
