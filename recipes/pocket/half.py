"""Write a model folder in half precision: python recipes/pocket/half.py FOLDER OUT [CODEC]

FOLDER is a pocket codec, or a language model with one. The codec is halved before the corpus is encoded with it, so
that the codes it gives are those the language model was trained on. CODEC: another of the same codes, whose decoder was
trained further, to put in its place.
"""

import json
import shutil
import sys
from pathlib import Path

import torch

from ostinato.codec import fingerprint
from ostinato.folder import read_config
from ostinato.model import load_lm, resolve, save_lm
from ostinato.pocket import PocketCodec

SAMPLING = {"guidance": 4.0, "temperature": 1.2, "top_k": 250}  # settings.py and counted silent clips: LOG.md

source, out = resolve(sys.argv[1]), Path(sys.argv[2])
if read_config(source)["model_type"] == "pocket":
    PocketCodec.from_pretrained(source).save_pretrained(out, torch.float16)
else:
    lm, config = load_lm(source)
    training = json.loads((source / "training.json").read_text())
    config = {name: config[name] for name in ("text", "codec", "codec_id")}
    config["training"] = {"step": training["step"], "seed": training["seed"]}
    config["sampling"] = SAMPLING
    save_lm(out, lm, config, torch.float16)
    if len(sys.argv) > 3:
        codec = PocketCodec.from_pretrained(resolve(sys.argv[3]))
        if fingerprint(codec) != config["codec_id"]:
            sys.exit(f"{sys.argv[3]} has other codes ({fingerprint(codec)}) than {source} ({config['codec_id']})")
        codec.save_pretrained(out / "codec", torch.float16)
    else:
        shutil.copytree(source / "codec", out / "codec", dirs_exist_ok=True)
print(out, *(f"{p.relative_to(out)}: {p.stat().st_size / 1e6:.1f} MB" for p in sorted(out.rglob("*.safetensors"))))
