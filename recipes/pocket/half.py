"""Write a model folder in half precision: python recipes/pocket/half.py FOLDER OUT (a pocket codec, or an LM with one).

The codec is halved before the corpus is encoded with it, so that the codes it gives are those the LM was trained on.
"""

import json
import shutil
import sys
from pathlib import Path

import torch

from ostinato.folder import read_config
from ostinato.model import load_lm, resolve, save_lm
from ostinato.pocket import PocketCodec

SAMPLING = {"guidance": 3.0, "temperature": 1.2, "top_k": 250}  # chosen by settings.py, see LOG.md

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
    shutil.copytree(source / "codec", out / "codec", dirs_exist_ok=True)
print(out, *(f"{p.relative_to(out)}: {p.stat().st_size / 1e6:.1f} MB" for p in sorted(out.rglob("*.safetensors"))))
