"""From the shell to music: `ostinato generate` in fresh processes, beside what cannot be less.

    python benchmarks/startup.py                      # the model that ships, 10 s of music
    python benchmarks/startup.py --model runs/mine --rounds 5

Everything is in processes of its own, `--rounds` times, in turn; offline. end: until `ostinato generate -o FILE` has
exited. first sound: until `ostinato generate -o -` has written a sample. torch: `python -c "import torch"`.
generation: a process that has loaded the model makes the same clip, timed from there. The ratio is end / (torch +
generation): 1 would be a program that loads nothing but PyTorch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import machine

PROMPT = "A calm solo piano piece"
OSTINATO = [sys.executable, "-c", "from ostinato.cli import main; main()"]
MADE = """
import sys, time, ostinato
model = ostinato.load(sys.argv[1])
began = time.perf_counter()
model.generate(sys.argv[2], float(sys.argv[3]), 0)
print(time.perf_counter() - began)
"""


def spent(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_sound(command: list[str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.read(44 + 2)  # a WAV's header and a sample
        found = time.perf_counter() - began
        process.stdout.close()
        process.terminate()
    return found


def measure(model: str, seconds: float) -> dict[str, float]:
    ask = [*OSTINATO, "generate", PROMPT, "--model", model, "--seconds", str(seconds)]
    alone = subprocess.run(
        [sys.executable, "-c", MADE, model, PROMPT, str(seconds)], check=True, stdout=subprocess.PIPE, text=True
    )
    with tempfile.TemporaryDirectory() as folder:
        return {
            "torch": spent([sys.executable, "-c", "import torch"]),
            "generation": float(alone.stdout),
            "first sound": first_sound([*ask, "-o", "-"]),
            "end": spent([*ask, "-o", str(Path(folder) / "out.wav")]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(machine(), flush=True)
    rounds = [measure(args.model, args.seconds) for _ in range(args.rounds)]
    found = {name: median(one[name] for one in rounds) for name in rounds[0]}
    found["ratio"] = found["end"] / (found["torch"] + found["generation"])
    print(f"{args.model}, {args.seconds:g} s of music, median of {args.rounds}")
    for name, value in found.items():
        print(f"{name:12} {value:6.2f}{'' if name == 'ratio' else ' s'}")
    if args.json:
        Path(args.json).write_text(
            json.dumps({"machine": machine(), "rows": [found | {"model": args.model}]}, indent=1)
        )


if __name__ == "__main__":
    main()
