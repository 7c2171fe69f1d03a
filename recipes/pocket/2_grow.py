"""More codebooks for a pocket codec or a fine stage: python recipes/pocket/2_grow.py SOURCE OUT COUNT [--lookahead N]

SOURCE: pocket (its codec), or the folder of a codec or of a fine stage. What is there stays as it is. A codec's new
codebooks add nothing to its sound until they are trained: their way out is zero. So are a fine stage's ways from their
latents and to their codes: of the codes that it knows it thinks as before.

With --lookahead, each block of the codec's decoder sees N frames after a frame in place of 3, and more of those before:
a stream sounds sooner. Its kernels keep what they had for the frames they still see; training makes good the rest.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ostinato.codecs.pocket import PocketCodec
from ostinato.generation.fine_stage import Scale, fine_folder, save_fine
from ostinato.generation.folders import resolve
from ostinato.models.denoisers import make_denoiser
from ostinato.training.init_from import init_folder
from ostinato.utils.errors import UserError
from ostinato.utils.files import read_config, weights_file


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


def grow_fine(folder: Path, out: Path, count: int) -> None:
    """Write the fine stage of `folder` to `out`, for `count` codebooks. Raises UserError for fewer than it has."""
    sizes, scale, _, config = fine_folder(folder)
    if count < sizes.num_codebooks:
        raise UserError(f"the stage has {sizes.num_codebooks} codebooks; ask for as many or more, not {count}")
    grown = dataclasses.replace(sizes, num_codebooks=count)
    shapes = {name: values.shape for name, values in make_denoiser(grown).state_dict().items()}
    weights = {name: filled_up(values, shapes[name]) for name, values in load_file(weights_file(folder)).items()}
    new = (count - sizes.num_codebooks) * sizes.latent_width  # whose scale a training measures
    about = {key: value for key, value in config.items() if key in ("text", "codec", "codec_id", "sampling")}
    save_fine(out, grown, Scale(scale.mean + (0.0,) * new, scale.std + (1.0,) * new), about, weights)


def filled_up(values: Tensor, shape: torch.Size) -> Tensor:
    """Zeros after what is there, in every dimension."""
    sides = [(0, wanted - had) for had, wanted in zip(values.shape, shape, strict=True)]
    return F.pad(values.float(), [side for pair in reversed(sides) for side in pair])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("out", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--lookahead", type=int, metavar="N")
    args = parser.parse_args()
    torch.manual_seed(0)
    if read_config(resolve(args.source)).get("model_type") == "ostinato-fine":
        grow_fine(resolve(args.source), args.out, args.count)
    else:
        codec = PocketCodec.from_pretrained(init_folder(args.source, "codec"))
        grow(codec, args.count, args.lookahead).save_pretrained(args.out)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"2_grow.py: {error}", file=sys.stderr)
        sys.exit(2)
