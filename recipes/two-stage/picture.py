"""Spectrograms of two stages (needs matplotlib):

    python recipes/two-stage/picture.py STORE MODEL OUT.png [CLIP]

Above, a held-out clip of STORE (number CLIP of its validation split): its first codebook, that and MODEL's fine stage,
all its codes. Below, three sentences by MODEL.
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import ostinato
from ostinato.codecs.base import sound
from ostinato.data.prepare import open_store
from ostinato.utils.spectrogram import spectrogram

PROMPTS = [
    "A slow Bach chorale played on church organ",
    "A fast, energetic dance techno track with synthesizers and drums",
    "A calm solo piano piece",
]
SECONDS = 10

store, model, out = open_store(sys.argv[1]).split("validation"), ostinato.load(sys.argv[2]), sys.argv[3]
clip = int(sys.argv[4]) if len(sys.argv) > 4 else 0
codec, fine = model.codec, model.fine
codes = store.codes(clip)[None, :, : round(SECONDS * codec.frame_rate)]
read = fine.text or model.text
with torch.no_grad():
    refined = fine.refine(codes[:, :1].unbind(-1), read([(store.captions(clip) or [""])[0]]), read([""]), [0])
    versions = {
        "a held-out clip from its first codebook": codes[:, :1],
        "from that and the fine stage": torch.cat([inputs for _, inputs in refined], -1),
        "from all its codes": codes,
    }
    rows = [[(name, sound(codec, version)[0], codec.sample_rate) for name, version in versions.items()]]
rows.append([(made.prompt, made.audio, made.sample_rate) for made in model.generate(PROMPTS, SECONDS, 0)])
figure, axes = plt.subplots(2, 3, figsize=(15, 5), sharex=True, sharey=True)
for line, row in zip(axes, rows, strict=True):
    for axis, (name, audio, rate) in zip(line, row, strict=True):
        axis.imshow(spectrogram(audio, rate), aspect="auto", extent=(0, SECONDS, 0, 128))
        axis.set_title(name, fontsize=8)
        axis.set_yticks([])
    line[0].set_ylabel("mel bands")
for axis in axes[-1]:
    axis.set_xlabel("seconds")
figure.tight_layout()
figure.savefig(out, dpi=70)
