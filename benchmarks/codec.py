"""What a codec keeps of music from its first n codebooks: the preliminary study's Figure 1 for any codec here.

    python benchmarks/codec.py CLIPS --codec pocket --figure codec.png --listener efficientat:mn04_as_mAP_432.pt

CLIPS is a folder of audio that the codec was not trained on, such as OUT/test of recipes/pocket/6_yardsticks.py. mel:
the mean distance of log10 mel spectra at windows of 128 to 4096 samples; SI-SDR: scale-invariant signal-to-distortion
ratio; FD: Frechet distance of the listener's embeddings to those of the clips themselves, over all clips (it is biased
by their number, alike for every row). Perplexity: how many of a codebook's entries are in use, counted as if all were
used alike. `--pictures N` draws mel spectrograms of N of the clips, one a row: as it is, from all codebooks, from one.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from ostinato.codecs.load import load_codec
from ostinato.codecs.losses import SpectralLoss, si_sdr
from ostinato.evaluation.metrics import frechet_distance, moments
from ostinato.evaluation.networks.base import hear, load_listener
from ostinato.utils.audio import read_audio
from ostinato.utils.spectrogram import spectrogram


def draw(pictures: list[list[torch.Tensor]], rate: int, path: Path) -> None:
    """A row for each clip: original, all codebooks, the first one alone."""
    rows = [[np.pad(spectrogram(audio, rate), ((4, 4), (4, 4), (0, 0)))[:, ::2] for audio in row] for row in pictures]
    Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows]).repeat(2, 0)).save(path)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in ("mel", "SI-SDR, dB", "FD") if name in rows[0]]
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot([row["codebooks"] for row in rows], [row[name] for row in rows], marker="o")
        axis.set(xlabel="codebooks", title=name)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--codec", default="pocket", help="pocket, dac, encodec, a folder or a hub id")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--listener", help="for FD: efficientat:FILE, openl3, ...")
    parser.add_argument("--figure", type=Path, help="draw the curves")
    parser.add_argument("--pictures", type=int, default=0)
    parser.add_argument("--pictures-to", type=Path, default=Path("codec-clips.png"))
    args = parser.parse_args()
    codec = load_codec(args.codec)
    loss, K = SpectralLoss(codec.sample_rate), codec.num_codebooks
    listener = load_listener(args.listener) if args.listener else None
    files = sorted(p for p in args.clips.iterdir() if p.suffix in (".wav", ".flac", ".ogg"))
    counts = torch.zeros(K, codec.codebook_size)
    scores: list[list[tuple[float, float]]] = [[] for _ in range(K)]
    heard: list[list[np.ndarray]] = [[] for _ in range(K + 1)]
    pictures: list[list[torch.Tensor]] = []
    for i, file in enumerate(track(files, "clips")):
        audio = read_audio(file, codec.sample_rate)[None, :, : round(args.seconds * codec.sample_rate)]
        codes = codec.encode(audio)
        for k in range(K):
            counts[k] += torch.bincount(codes[0, k], minlength=codec.codebook_size)
        made = [codec.decode(codes[:, : k + 1])[..., : audio.shape[-1]] for k in range(K)]
        for k, one in enumerate(made):
            scores[k].append((float(loss(one, audio)), float(si_sdr(one, audio))))
        if listener:
            for k, one in enumerate([*made, audio]):
                heard[k].append(hear(listener, one, codec.sample_rate))
        if len(pictures) < args.pictures and i % max(1, len(files) // args.pictures) == 0:
            pictures.append([audio[0], made[-1][0], made[0][0]])
    share = counts / counts.sum(1, keepdim=True)
    perplexity = torch.exp(-(share * share.clamp(min=1e-12).log()).sum(1)).tolist()
    real = moments(heard[-1]) if listener else None
    rows = []
    for k in range(K):
        mel, sdr = np.mean(scores[k], 0)
        row = {"codebooks": k + 1, "mel": mel, "SI-SDR, dB": sdr, "perplexity of the last": perplexity[k]}
        if real:
            m = moments(heard[k])
            row["FD"] = frechet_distance(m.mean, m.covariance, real.mean, real.covariance)
        rows.append(row)
    print(f"{len(files)} clips, {codec.frame_rate:g} frames a second, {codec.codebook_size} entries\n")
    print("| " + " | ".join(rows[0]) + " |\n" + "| --- " * len(rows[0]) + "|")
    for row in rows:
        print(
            "| "
            + " | ".join(f"{value:.3g}" if name != "codebooks" else f"{value}" for name, value in row.items())
            + " |"
        )
    if args.figure:
        plot(rows, args.figure)
    if pictures:
        draw(pictures, codec.sample_rate, args.pictures_to)


if __name__ == "__main__":
    main()
