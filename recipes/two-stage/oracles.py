"""What each stage costs: a fine stage on real coarse codes, beside real codes cut to n codebooks and all of them.

    python recipes/two-stage/oracles.py stores/pocket runs/fine-pocket-unet --steps 4,8,16 --listener efficientat:FILE

The clips are held out (validation or test split). mel: the mean distance of log10 mel spectra at windows of 128 to 4096
samples to what all codes decode to; beside it, how much more that is than from the first codebook alone, clip by clip.
FD: Frechet distance of a listener's embeddings to those of that same sound, over all clips (biased by their number,
alike for every row). Intervals are of 95 %, by bootstrap over clips. join: how much the mel spectrum changes where two
windows meet, by how much it does from any frame to the next; 1 where no seam is. x real time: seconds that the fine
stage takes by seconds of sound. "raw" is decoded from the latents as they were drawn, without snapping them to codes.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track

from ostinato.cli.app import pick_device
from ostinato.codecs.base import Codec
from ostinato.codecs.load import load_codec
from ostinato.codecs.losses import MEL_BINS, SpectralLoss
from ostinato.data.prepare import open_store
from ostinato.data.store import spread
from ostinato.evaluation.metrics import Score, average, frechet, moments
from ostinato.evaluation.networks.base import hear, load_listener
from ostinato.evaluation.reporting.tables import markdown
from ostinato.generation.fine_stage import FineStage, load_fine, quantize, with_coarse
from ostinato.generation.folders import stage_folder
from ostinato.generation.windows import joins
from ostinato.models.text_encoder import load_text_encoder
from ostinato.utils.errors import UserError
from ostinato.utils.stft import stft


@dataclass
class Row:
    """What is measured of one way to make the clips."""

    mel: list[float] = field(default_factory=list)
    join: list[float] = field(default_factory=list)
    heard: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0  # that the fine stage took


def change_at(audio: torch.Tensor, at: list[int], codec: Codec, loss: SpectralLoss) -> float | None:
    """Mean change of the log mel spectrum across the beginnings of the frames `at`, by that across all frames."""
    mel = loss.mel(stft(audio, 512), 512)[0]  # [bands, hops of 128 samples]
    step = (mel[:, 1:] - mel[:, :-1]).abs().mean(0)
    places = [round(t * codec.hop / 128) - 1 for t in at]
    near = [float(step[max(0, p - 1) : p + 3].max()) for p in places if 0 <= p < len(step)]
    usual = F.max_pool1d(step[None, None], 4, 1).mean()
    return float(np.mean(near) / usual) if near else None


def listed(kind: type) -> Callable[[str], list]:
    """For argparse: values with commas between, each once."""

    def values(text: str) -> list:
        return list(dict.fromkeys(kind(part.strip()) for part in text.split(",")))

    values.__name__ = f"list of {kind.__name__}"  # in argparse's message
    return values


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("fine", help="a fine stage: its folder, its run's, or a two-stage model such as pocket")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--codebooks", type=listed(int), default=[1, 2, 4], help="rows of real codes cut to so many")
    parser.add_argument("--sampler", type=listed(str), help="some of ddpm, ddim, dpm++; default: the model's own")
    parser.add_argument("--steps", type=listed(int), help="such as 4,8,16; default: the model's own")
    parser.add_argument("--guidance", type=listed(float), help="such as 1,3; default: the model's own")
    parser.add_argument("--temperature", type=listed(float), help="such as 0.7,1, of a stage that tells codes")
    parser.add_argument("--listener", help="for FD: openl3, efficientat:FILE, ...")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="write the rows as JSON, too")
    args = parser.parse_args()
    device = torch.device(pick_device(args.device))
    store = open_store(args.store)
    held = next((part for name in ("validation", "test") if len(part := store.split(name))), None)
    if held is None:
        raise UserError(f"{args.store} has no clip in its validation or test split: the oracles need some held out")
    codec = load_codec(store.info["codec"], device)
    stage = load_fine(stage_folder(args.fine, "fine"), codec, device)
    if stage.config.get("codec_id") not in (None, store.info["codec_id"]):
        raise UserError(f"{args.fine} was trained on another codec than {args.store} is of")
    encoder = load_text_encoder(stage.config["text"], device)
    listener = load_listener(args.listener, device) if args.listener else None
    own, loss = stage.sampling, SpectralLoss(codec.sample_rate).to(device)
    asked = [
        replace(own, sampler=sampler, steps=steps, guidance=guidance, temperature=temperature)
        for sampler in args.sampler or [own.sampler]
        for steps in args.steps or [own.steps]
        for guidance in args.guidance or [own.guidance]
        for temperature in args.temperature or [own.temperature]
    ]
    K, T = codec.num_codebooks, round(args.seconds * codec.frame_rate)
    cuts = sorted({1, *args.codebooks})
    rows = {f"real codes, first {n}": Row() for n in cuts if n < K}
    rows |= {"real codes, all": Row()}
    names = [f"{s.sampler} {s.steps}, guidance {s.guidance:g}, T {s.temperature:g}" for s in asked]
    rows |= {f"stage two, {name}{raw}": Row() for name in names for raw in ("", ", raw")}
    empty = encoder([""])
    for i in track(spread(len(held), args.clips), "clips"):
        codes = held.codes(i)[None, :K, :T].to(device)
        at = joins(codes.shape[-1], *stage.frames(own))  # the asked differ in none of it
        text = encoder([(held.captions(i) or [""])[0]])
        sounds = {"real codes, all": codec.decode(codes)}
        for name in rows:
            if name.startswith("real codes, first"):
                sounds[name] = codec.decode(codes[:, : int(name.split()[-1])])
        for name, settings in zip(names, asked, strict=True):
            began = time.monotonic()
            latents = draw(stage, codes[:, :1], text, empty, args.seed + i, settings)
            spent = time.monotonic() - began
            sounds[f"stage two, {name}"] = codec.decode(quantize(codec, codes[:, :1], latents))
            sounds[f"stage two, {name}, raw"] = codec.decode_latents(with_coarse(codec, codes[:, :1], latents))
            for made in (f"stage two, {name}", f"stage two, {name}, raw"):
                rows[made].seconds += spent / (codes.shape[-1] / codec.frame_rate)
        real = sounds["real codes, all"]
        room = (0, max(0, max(MEL_BINS) - real.shape[-1]))
        for name, sound in sounds.items():
            rows[name].mel.append(float(loss(F.pad(sound, room), F.pad(real, room))))
            if (change := change_at(sound, at, codec, loss)) is not None:
                rows[name].join.append(change)
            if listener:
                rows[name].heard.append(hear(listener, sound, codec.sample_rate))
    report(rows, args.output)


def draw(stage: FineStage, coarse: torch.Tensor, text, empty, seed: int, settings) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """Fine latents [1, F, T] of coarse codes [1, 1, T]."""
    return torch.cat([x for _, x in stage.latents(coarse.unbind(-1), text, empty, [seed], settings)], -1)


def report(rows: dict[str, Row], output: Path | None) -> None:
    """Print a Markdown table, and write it as JSON."""
    whole, first = rows["real codes, all"], np.array(rows["real codes, first 1"].mel)
    real = moments(whole.heard) if whole.heard else None
    table = []
    for name, row in rows.items():
        line: dict = {"row": name, "clips": len(row.mel), "mel": float(np.mean(row.mel))}
        line["more than first 1"] = interval(average(np.array(row.mel) - first))
        if real:
            with warnings.catch_warnings():  # of fewer windows than dimensions, in every row alike
                warnings.simplefilter("ignore")
                line["FD"] = interval(frechet(row.heard, real))
        line["join"] = float(np.mean(row.join)) if row.join else None
        line["x real time"] = row.seconds / len(row.mel) if row.seconds else None
        table.append(line)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(table, indent=2) + "\n")
    print(markdown([list(table[0]), *([*map(cell, line.values())] for line in table)]))


def interval(score: Score) -> list[float | None]:
    return [score.value, score.low, score.high]


def cell(value: object) -> str:
    if isinstance(value, list):
        return f"{value[0]:.3g}" + (f" [{value[1]:.3g}, {value[2]:.3g}]" if value[1] is not None else "")
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
