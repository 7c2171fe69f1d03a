"""Short codec runs of equal length, side by side: python recipes/pocket/8_codec_trials.py STORE OUT.jsonl [--steps N]

STORE is audio at 32 kHz (`ostinato prepare CORPUS STORE --codec none --sample-rate 32000`). Each trial of TRIALS, or
those that --only names, trains for N steps of 8 x 1 s, from the codec that ships or from nothing, with the same clips;
the rate falls to a twentieth in a cosine. The table has mel distance and SI-SDR (dB) on 5 s of held-out clips through
all codebooks, before and after, and the processor time of a step. A finished trial is a line of OUT.jsonl, and is not
run again: another STORE, or another codec that ships, wants another OUT.jsonl. One seed: small differences say nothing.
(At 25 Hz, 16 codebooks are 4 kbit/s, where 12 at 50 Hz are 6.)
"""

import argparse
import functools
import importlib
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from ostinato.codecs.load import load_codec
from ostinato.codecs.losses import si_sdr
from ostinato.codecs.pocket import PocketCodec, Quantised, ResidualVQ
from ostinato.data.store import spread
from ostinato.training.codec_task import CodecTask
from ostinato.training.config import CodecRun, load_run
from ostinato.training.optimizer import clip_gradients, learning_rate, optimizers_for
from ostinato.utils.errors import UserError

CONFIG = Path(__file__).parents[2] / "configs" / "codec-pocket-12.yaml"
grow = importlib.import_module("2_grow").grow


@dataclass(frozen=True)
class Trial:
    settings: tuple[str, ...] = ()  # as `ostinato train --set` has them
    scratch: bool = False  # from random weights
    rounded: bool = True  # to the nearest entry of each codebook


TRIALS = {
    "12 codebooks": Trial(),
    "no rounding": Trial(rounded=False),
    "16 codebooks": Trial(("model.num_codebooks=16",)),
    "waveform loss x 3": Trial(("waveform_weight=30",)),
    "rate x 2": Trial(("train.learning_rate=8e-4", "train.final_learning_rate=4e-5")),
    "muon": Trial(("train.optimizer=muon", "train.betas=[0.95,0.99]")),
    "50 Hz, from nothing": Trial(scratch=True),
    "25 Hz, 16 codebooks, from nothing": Trial(
        ("model.hop=1280", "model.window=5120", "model.num_codebooks=16"), scratch=True
    ),
}


def unrounded(self: ResidualVQ, z: Tensor, keep: Tensor | None) -> Quantised:
    """`ResidualVQ.quantise` without the look-up: the projections as they are, of as many dimensions as the codes."""
    latent, residual = torch.zeros_like(z), z
    for k, (into, out) in enumerate(zip(self.into, self.out, strict=True)):
        live = torch.ones_like(z[:, 0, 0]) if keep is None else (keep > k).to(z.dtype)
        step = out(F.normalize(into(residual), dim=-1))
        latent, residual = latent + live[:, None, None] * step, residual - step
    nothing = z.new_zeros(())
    return Quantised(latent, torch.zeros(len(z), 0, z.shape[1], dtype=torch.long), nothing, nothing)


def begin(trial: Trial, task: CodecTask) -> None:
    """Give the task's codec its first weights."""
    if not trial.scratch:
        codec = load_codec("pocket")
        assert isinstance(codec, PocketCodec)
        count = task.codec.num_codebooks
        task.codec.load_state_dict((grow(codec, count) if count > codec.num_codebooks else codec).state_dict())
    if not trial.rounded:
        task.codec.quantiser.quantise = functools.partial(unrounded, task.codec.quantiser)  # type: ignore[method-assign]


@torch.no_grad()
def score(task: CodecTask, clips: int) -> dict[str, float]:
    """Mel distance and SI-SDR of held-out clips, from all codebooks."""
    task.codec.eval()
    found = []
    for i in spread(len(task.held_out), clips):
        audio = task.held_out.pcm(i, 0, 5 * task.codec.sample_rate)[None]
        made, _ = task.codec(audio)
        found.append((float(task.loss(made, audio)), float(si_sdr(made, audio))))
    task.codec.train()
    mel, ratio = (sum(values) / len(values) for values in zip(*found, strict=True))
    return {"mel": mel, "si_sdr": ratio}


def run(name: str, store: str, steps: int, clips: int) -> dict:
    """One trial, as a line of the results."""
    trial = TRIALS[name]
    fixed = [f"data={store}", "output=unused", f"train.steps={steps}"]
    rates = ["train.learning_rate=4e-4", "train.final_learning_rate=2e-5", "train.warmup=20"]
    config = load_run(CONFIG, [*fixed, *rates, *trial.settings])
    assert isinstance(config, CodecRun)
    torch.manual_seed(0)
    task = CodecTask(config, torch.device("cpu"))
    begin(trial, task)
    before = score(task, clips)
    optimizers, order = optimizers_for(task.codec, config.train), random.Random(0)
    plain = SimpleNamespace(backward=lambda loss: loss.backward())  # what CodecTask asks of an accelerator
    began = time.process_time()
    for step in track(range(steps), name):
        random.seed(step)
        torch.manual_seed(step)
        batch = torch.stack([task.data[order.randrange(len(task.data))] for _ in range(config.train.batch)])
        task.backward(plain, batch, step, 1.0)
        clip_gradients(task.codec, config.train.clip_norm)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config.train)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    spent = (time.process_time() - began) / steps
    return {"name": name, "steps": steps, "clips": clips, "before": before, "after": score(task, clips), "cpu": spent}


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = [
        "| trial | steps | mel before | after | SI-SDR before | after | s of processor a step |",
        "| --- " * 7 + "|",
    ]
    for r in rows:
        b, a = r["before"], r["after"]
        scores = f"{b['mel']:.3f} | {a['mel']:.3f} | {b['si_sdr']:.1f} | {a['si_sdr']:.1f}"
        lines.append(f"| {r['name']} | {r['steps']} | {scores} | {r['cpu']:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--clips", type=int, default=24, help="held-out clips that are listened to")
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="TRIAL")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(r["name"], r["steps"], r["clips"]) for r in rows}
    try:
        for name in args.only:
            if (name, args.steps, args.clips) not in done:
                rows.append(run(name, args.store, args.steps, args.clips))
                with args.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    except UserError as error:
        print(f"8_codec_trials.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("8_codec_trials.py: interrupted; the same command goes on with the trial it was at", file=sys.stderr)
        return 2
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
