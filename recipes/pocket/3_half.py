"""Write a model folder in half precision: python recipes/pocket/3_half.py FOLDER OUT [CODEC]

FOLDER is a pocket codec, a language model with one, or a two-stage model (`ostinato join`). The codec is halved before
the corpus is encoded with it, so that the codes it gives are those the language model was trained on. CODEC: another of
the same codes, whose decoder was trained further, to put in its place.
"""

import sys
from pathlib import Path

import torch

import ostinato
from ostinato.codecs.base import fingerprint
from ostinato.codecs.pocket import PocketCodec
from ostinato.generation.folders import resolve, training_state
from ostinato.utils.files import read_config

source, out = resolve(sys.argv[1]), Path(sys.argv[2])
if read_config(source)["model_type"] == "pocket":
    PocketCodec.from_pretrained(source).save_pretrained(out, torch.float16)
else:
    model = ostinato.load(source)
    about = {name: model.config[name] for name in ("text", "codec", "codec_id")}
    trained = training_state(source / "lm" if model.fine else source)
    model.config = about | {"training": {name: trained[name] for name in ("step", "seed")}}
    if len(sys.argv) > 3:
        codec = PocketCodec.from_pretrained(resolve(sys.argv[3]))
        if fingerprint(codec) != about["codec_id"]:
            sys.exit(f"{sys.argv[3]} has other codes ({fingerprint(codec)}) than {source} ({about['codec_id']})")
        model.codec = codec
    model.save_pretrained(out, torch.float16)
    model.codec.save_pretrained(out / "codec", torch.float16)  # which the line above has in float32
print(out, *(f"{p.relative_to(out)}: {p.stat().st_size / 1e6:.1f} MB" for p in sorted(out.rglob("*.safetensors"))))
