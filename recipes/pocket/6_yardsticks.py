"""What the pack is measured against: python recipes/pocket/6_yardsticks.py CORPUS STORE OUT --model MODEL [--count N]

CORPUS is what 1_corpus.py wrote, STORE the codes the model was trained on. Written to OUT, all clips 10 s:
- `test/` and `train/`: real music of the two splits, of all pieces alike, and `prompts.csv`, the captions of `test/`;
- `unigram/`: codes drawn one by one by how often each stands in the training set, through the codec;
- `untrained/`: MODEL, a language model of all codebooks (`configs/lm-pocket.yaml`), with fresh weights, a folder that
  `ostinato evaluate` generates from.

    ostinato evaluate pocket OUT/unigram OUT/untrained OUT/train --prompts OUT/prompts.csv --reference OUT/test \\
        --codec pocket --codebooks 1,12 --listener efficientat:mn04_as_mAP_432.pt \\
        --store STORE --output OUT/results
"""

import argparse
import csv
import json
import random
from pathlib import Path

import numpy as np
import torch

from ostinato.data.prepare import open_store
from ostinato.generation.pipeline import Ostinato, load
from ostinato.models.lm import MusicLM
from ostinato.utils.audio import read_audio, write_audio

SECONDS = 10


def real(corpus: Path, split: str, out: Path, count: int, seed: int) -> list[tuple[str, str]]:
    """Write `count` clips at most of a split, one of each piece in turn; returns their names and captions."""
    rows = [json.loads(line) for line in (corpus / "captions.jsonl").read_text().splitlines()]
    pieces = sorted((row for row in rows if row["split"] == split), key=lambda row: row["path"])
    draw = random.Random(seed)
    draw.shuffle(pieces)
    out.mkdir(parents=True, exist_ok=True)
    clips: list[tuple[str, str]] = []
    places: dict[str, list[int]] = {}  # where the clips of a piece begin that are still to be had, in clips
    while len(clips) < count and pieces:
        for row in list(pieces):
            audio = read_audio(corpus / row["path"], 32000)
            fits = audio.shape[1] // (SECONDS * 32000)
            left = places.setdefault(row["path"], draw.sample(range(fits), fits))
            if not left:
                pieces.remove(row)
            elif len(clips) < count:
                name, start = f"{len(clips):04d}", left.pop() * SECONDS * 32000
                write_audio(out / f"{name}.wav", audio[:, start : start + SECONDS * 32000], 32000)
                clips.append((name, draw.choice(row["captions"])))
    return clips


def unigram(model: Ostinato, store: Path, out: Path, count: int, seed: int) -> None:
    train, codec = open_store(store).split("train"), model.codec
    counts = np.zeros((codec.num_codebooks, codec.codebook_size))
    for i in range(len(train)):
        for k, codes in enumerate(train.codes(i)):
            counts[k] += np.bincount(codes.numpy(), minlength=codec.codebook_size)
    generator = torch.Generator().manual_seed(seed)
    shares, frames = torch.from_numpy(counts), round(SECONDS * codec.frame_rate)
    out.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        codes = torch.multinomial(shares, frames, replacement=True, generator=generator)
        write_audio(out / f"{n:04d}.wav", codec.decode(codes[None])[0].clamp(-1, 1), codec.sample_rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--model", required=True, help="a language model of all codebooks")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load(args.model)
    clips = real(args.corpus, "test", args.out / "test", args.count, args.seed)
    with (args.out / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "caption"), *clips])
    real(args.corpus, "train", args.out / "train", args.count, args.seed)
    unigram(model, args.store, args.out / "unigram", args.count, args.seed)
    torch.manual_seed(args.seed)
    Ostinato(MusicLM(model.lm.config), model.text, model.codec, model.config, model.sampling).save_pretrained(
        args.out / "untrained"
    )
    print(f"{args.out}: {len(clips)} clips of the test split")


if __name__ == "__main__":
    main()
