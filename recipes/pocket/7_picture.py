"""Draw README.md's picture: python recipes/pocket/7_picture.py docs/four-sentences.png (needs matplotlib)."""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import ostinato

PROMPTS = [
    "A slow Bach chorale played on church organ",
    "A fast, energetic dance techno track with synthesizers and drums",
    "A calm solo piano piece",
    "An atmospheric ambient piece with deep bass",
]

model = ostinato.load()
figure, axes = plt.subplots(2, 2, figsize=(11, 5), sharex=True, sharey=True)
for axis, clip in zip(axes.flat, model.generate(PROMPTS, seconds=10, seed=0), strict=True):
    spectrum = torch.stft(clip.audio[0], 2048, 512, window=torch.hann_window(2048), return_complex=True)
    level = 20 * spectrum.abs().clamp(min=1e-4).log10()
    bins = 2048 * 8000 // clip.sample_rate
    axis.imshow(level[:bins], origin="lower", aspect="auto", extent=(0, 10, 0, 8), vmin=-50, vmax=40, cmap="magma")
    axis.set_title(clip.prompt, fontsize=9)
for axis in axes[:, 0]:
    axis.set_ylabel("kHz")
for axis in axes[1]:
    axis.set_xlabel("seconds")
figure.tight_layout()
figure.savefig(sys.argv[1], dpi=80)
