"""How fast a sentence becomes sound on this CPU: the shipped model beside MusicGen-small of transformers.

    python benchmarks/pocket.py                       # as it ships, in other forms, and MusicGen-small
    python benchmarks/pocket.py --seconds 10 --rounds 3 --rows "pocket; musicgen-small"

Each row runs in a process of its own, `--rounds` times, the rows in turn; offline. Everything after loading counts:
reading the text, drawing the codes with guidance (two branches in one batch), decoding them.

real-time factor: seconds of computing for a second of music; below 1 is faster than it plays. first sound: seconds from
the sentence to the first piece that could be played; transformers' MusicGen gives a clip only whole, so for it that is
the whole clip. load: from the import on. Peak: resident memory (ru_maxrss) of the process.

The forms of the language model are measured to choose the one that ships, float32 computed from weights stored in half
precision: bfloat16 (weights and arithmetic), int8 (PyTorch's dynamic quantisation of its linear layers), compiled
(torch.compile of a step; compiling is counted as loading).
MusicGen-small has random weights (its own are not part of this package) at its published configuration: T5-base,
decoder of 24 layers and width 1024, EnCodec at 32 kHz. Random weights take as long as trained ones.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from machine import machine

PROMPT = "A slow Bach chorale played on church organ"
FORMS = ("pocket", "pocket, bfloat16", "pocket, int8", "pocket, compiled")
ROWS = (*FORMS, "musicgen-small")


def pack(form: str, seconds: float, seed: int) -> dict:
    began = time.perf_counter()
    import ostinato

    name, _, form = form.partition(", ")
    model = ostinato.load(name)
    if form == "bfloat16":
        model.lm.to(torch.bfloat16)
        text = model.text
        if model.fine:
            model.fine.text = text
        model.text = lambda prompts: (text(prompts)[0].bfloat16(), text(prompts)[1])
    if form == "int8":
        import warnings

        warnings.simplefilter("ignore")  # the call is deprecated in favour of a package apart
        for part in model.lm.modules():  # ours is a subclass, which the call would pass over
            if isinstance(part, torch.nn.Linear):
                part.__class__ = torch.nn.Linear
        for part in (model.lm.layers, model.lm.lm_head):
            torch.ao.quantization.quantize_dynamic(part, {torch.nn.Linear}, torch.qint8, inplace=True)
    if form == "compiled":
        model.lm.step = torch.compile(model.lm.step)
        model.generate(PROMPT, 0.5, seed)
    loaded = time.perf_counter()
    model.generate(PROMPT, seconds, seed)
    made = time.perf_counter()
    next(model.play(PROMPT, seed))
    first = time.perf_counter() - made
    networks = [model.lm] + ([model.fine.denoiser] if model.fine else [])
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    return {"load": loaded - began, "rtf": (made - loaded) / seconds, "first": first, "parameters": parameters}


def musicgen(seconds: float, seed: int) -> dict:
    began = time.perf_counter()
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    text = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12)
    codec = EncodecConfig(
        sampling_rate=32000, num_filters=64, upsampling_ratios=[8, 5, 4, 4], hidden_size=128, codebook_size=2048,
        codebook_dim=128, target_bandwidths=[2.2], norm_type="weight_norm", use_causal_conv=False,
    )  # fmt: skip
    parts = {"text_encoder": text, "audio_encoder": codec, "decoder": MusicgenDecoderConfig()}
    torch.manual_seed(seed)
    model = MusicgenForConditionalGeneration(MusicgenConfig(**{k: c.to_dict() for k, c in parts.items()})).eval()
    loaded = time.perf_counter()
    tokens = torch.randint(3, 1000, (1, 12))
    frames = round(seconds * 50)
    with torch.no_grad():
        audio = model.generate(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), guidance_scale=3.0, do_sample=True, top_k=250,
            max_new_tokens=frames + 3, min_new_tokens=frames + 3,
        )  # fmt: skip
    spent, music = time.perf_counter() - loaded, audio.shape[-1] / 32000
    count = sum(p.numel() for p in model.decoder.parameters())
    return {"load": loaded - began, "rtf": spent / music, "first": spent, "parameters": count}


def work(row: str, seconds: float, seed: int) -> dict:
    made = musicgen(seconds, seed) if row == "musicgen-small" else pack(row, seconds, seed)
    return made | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def table(results: dict[str, list[dict]], seconds: float) -> str:
    from ostinato.evaluation.reporting.tables import markdown  # not in the processes whose memory is measured

    def middle(row: str, key: str) -> float:
        return median(one[key] for one in results[row])

    head = "model; M param., no codec; load, s; real-time factor (min); first sound, s; peak MB; x MusicGen-small"
    lines = [head.split("; ")]
    for row, rounds in results.items():
        least = min(one["rtf"] for one in rounds)
        ratio = f"{middle('musicgen-small', 'rtf') / middle(row, 'rtf'):.1f}" if "musicgen-small" in results else "-"
        parameters = middle(row, "parameters") / 1e6
        cells = [
            row,
            f"{parameters:.1f}" if parameters else "-",
            f"{middle(row, 'load'):.1f}",
            f"{middle(row, 'rtf'):.2f} ({least:.2f})",
            f"{middle(row, 'first'):.2f}",
            f"{middle(row, 'peak') / 1e6:.0f}",
            ratio,
        ]
        lines.append(cells)
    return f"{seconds:g} s of music, median of {len(rounds)} rounds\n\n{markdown(lines)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", help=f"only these, separated by ; (default: {'; '.join(ROWS)})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        return print(json.dumps(work(args.job, args.seconds, args.seed)))
    rows = [row.strip() for row in args.rows.split(";")] if args.rows else list(ROWS)
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"no row {unknown[0]!r}; there are: {'; '.join(ROWS)}")
    print(machine(), flush=True)
    results: dict[str, list[dict]] = {row: [] for row in rows}
    for i in range(args.rounds):
        for row in rows:
            print(f"round {i + 1} of {args.rounds}: {row}", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--seconds", str(args.seconds), "--seed", str(i), "--job", row]
            environment = os.environ | {"HF_HUB_OFFLINE": "1"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            results[row].append(json.loads(done.stdout.splitlines()[-1]))
    print(table(results, args.seconds))
    if args.json:
        Path(args.json).write_text(
            json.dumps({"machine": machine(), "seconds": args.seconds, "rows": results}, indent=1)
        )


if __name__ == "__main__":
    main()
