"""How many clips a second the loader gives, beside how many a GPU that is kept busy would take.

    python benchmarks/loading.py                         # the paper's runs and the pocket's, on an H200 at 40 % MFU
    python benchmarks/loading.py --gpu "RTX 4090" --workers 0,2 --configs prefix-simba-9

Each config gets a store in a temporary folder: clips of its length, of random codes, which compress worse than real
ones do, or of noise. What is timed is what training reads (`batch_order.make_loader`: payload from the disk, a random
stretch, a caption, a batch) for `--seconds`, after one batch. The system's cache holds the store: a slow disk is not
measured. takes: the GPU's peak by `gpus.GPUS`, times `--mfu`, over the model FLOPs of a clip (`flops.step_flops`);
a codec's are not counted. x: given over taken; under 1 the GPU waits. A model as small as the pocket's comes nowhere
near 40 % of the peak: of it, take the clips a second.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from ostinato.data.store import FORMAT, PAYLOAD, open_store, shard_table, write_shard
from ostinato.models.patterns import make_pattern
from ostinato.training.batch_order import make_loader
from ostinato.training.codec_task import Segments
from ostinato.training.codes_task import CodeDataset
from ostinato.training.config import CodecRun, LMRun, load_run
from ostinato.training.flops import step_flops
from ostinato.training.gpus import GPUS, find_gpu
from ostinato.training.lm_task import make_batch
from ostinato.training.plan import RATES, TEXT
from ostinato.utils.errors import UserError

CONFIGS = Path(__file__).parent.parent / "configs"
MEASURED = ("prefix-simba", "prefix-simba-9", "prefix-simba-9-flatten", "lm-pocket", "codec-pocket")
CODEBOOKS = {"dac": 9, "pocket": 12}  # of the store
CAPTION, SHARD = "A calm solo piano piece with a slow, sad melody and a soft string pad", 100


def make_store(folder: Path, kind: str, shape: tuple[int, ...], top: int, clips: int, info: dict[str, Any]) -> None:
    """`clips` clips of random whole numbers below `top`, each an array of `shape`."""
    (folder / "store.json").write_text(json.dumps({"format": FORMAT, "kind": kind} | info))
    random = np.random.default_rng(0)
    for first in range(0, clips, SHARD):
        rows = [
            {
                "id": str(n),
                "captions": [f"{CAPTION}, {n}"],
                "split": "train",
                "frames": shape[-1],
                PAYLOAD[kind]: random.integers(0, top, shape).astype("<i2").tobytes(),
            }
            for n in range(first, min(clips, first + SHARD))
        ]
        write_shard(folder / f"clips-{first // SHARD:05d}.parquet", shard_table(rows, kind), [])


def store_sizes(run: LMRun) -> tuple[float, int]:
    """Frames a second and codebooks of the store that a language model's config names."""
    codec = "dac" if "dac" in run.data else "pocket"
    return RATES[codec], CODEBOOKS[codec]


def dataset_of(run: LMRun | CodecRun, folder: Path, clips: int) -> tuple[Any, Any]:
    """A store as the run wants one, made in `folder`: what it reads there, and how it makes a batch of that."""
    if isinstance(run, CodecRun):
        rate = run.model.sample_rate
        make_store(folder, "pcm", (30 * rate,), 1 << 15, clips, {"sample_rate": rate})
        return Segments(open_store(folder), round(run.clip_seconds * rate)), torch.stack
    (frames_a_second, K), c = store_sizes(run), run.model
    frames = round(run.clip_seconds * frames_a_second)
    info = {"codec": "random", "codec_id": "random", "sample_rate": 32000, "frame_rate": frames_a_second}
    info |= {"num_codebooks": K, "codebook_size": c.codebook_size}
    make_store(folder, "codes", (K, frames), c.codebook_size, clips, info)
    pattern = make_pattern(c.pattern, c.num_codebooks)
    collate = partial(make_batch, pattern=pattern, special=c.codebook_size)
    return CodeDataset(open_store(folder), c.num_codebooks, frames, run.text_dropout), collate


def speed(loader: Any, batch: int, seconds: float) -> float:
    """Clips a second."""
    batches, count = iter(loader), 0
    next(batches)
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        found = next(batches)
        if isinstance(found, UserError):
            raise found
        count += batch
    return count / spent


def load(name: str) -> LMRun | CodecRun:
    """A config by its name. Raises UserError for one that is not there, or of a fine stage."""
    run = load_run(CONFIGS / f"{name}.yaml", [])
    if not isinstance(run, LMRun | CodecRun):
        raise UserError(f"{name} is a run of task {run.task}: take a language model's config or a codec's")
    return run


def measure(name: str, run: LMRun | CodecRun, args: argparse.Namespace, peak: float) -> Iterator[dict[str, Any]]:
    """A config's rows, one for each number of workers."""
    takes = None
    if isinstance(run, LMRun):
        frames = round(run.clip_seconds * store_sizes(run)[0])
        takes = peak * args.mfu / step_flops(run.model, 1, frames, TEXT)
    with tempfile.TemporaryDirectory() as folder:
        data, collate = dataset_of(run, Path(folder), args.clips)
        for workers in map(int, args.workers.split(",")):
            loader = make_loader(data, collate, dataclasses.replace(run.train, workers=workers), 0, 0, 1)
            found = speed(loader, run.train.batch, args.seconds)
            ratio = found / takes if takes else None
            yield {"config": name, "workers": workers, "clips/s": found, "ms": 1000 / found, "takes": takes, "x": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default=",".join(MEASURED), help="names in configs/, with commas between")
    parser.add_argument("--workers", default="0,2", help="processes of the loader")
    parser.add_argument("--clips", type=int, default=400, help="of each store")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--mfu", type=float, default=0.4)
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    args = parser.parse_args()
    gpu = find_gpu(args.gpu)
    if gpu is None:
        parser.error(f"no GPU {args.gpu!r}; there are: {', '.join(GPUS)}")
    try:
        runs = {name: load(name) for name in args.configs.split(",")}
    except UserError as error:
        parser.error(str(error))
    here, rows = machine(), []
    print(f"{here}\n\n| config | workers | clips/s | {gpu} takes | x |\n| --- | --- | --- | --- | --- |", flush=True)
    for name, run in runs.items():
        for row in measure(name, run, args, GPUS[gpu].tflops * 1e12):
            rows.append(row)
            told = (f"{row['takes']:.0f}", f"{row['x']:.1f}") if row["takes"] else ("-", "-")
            print(f"| {name} | {row['workers']} | {row['clips/s']:.0f} | {' | '.join(told)} |", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": here, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
