"""How fast the language models train on the device at hand, and in how much memory, beside what else there is.

    python benchmarks/train.py                            # the paper's size, batch 4 x 30 s (a GPU)
    python benchmarks/train.py --size small --batch 8     # recipes/efficiency's size, 10 s clips (a CPU)

A step is forward, backward, clipping of the gradient and AdamW, in bfloat16 autocast unless `--fp32`, over random
codes and 64 tokens of text; text encoder and codec are left out on every side. Peers: the models of transformers,
Mamba2Model of `prefix-mamba`'s sizes and MusicGen's decoder of `cross-transformer`'s; and, on a GPU with mamba-ssm
installed, our own models with its Triton kernels in place of `ostinato.models.ssd.ssd`.

ms: median of `--rounds` steps, after two that do not count. MFU: model FLOPs (`flops.step_flops`; of a peer,
those of ours with its sizes) over the peak of `gpus.GPUS`, or, for another device, over the rate of products
of matrices measured at the start. Peak: CUDA's allocator; on a CPU the growth of resident memory (ru_maxrss), each
model in a process of its own. Planned: `memory.activations` with weights, gradients and moments. x peer:
tokens a second over those of the peer named.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostinato.models.lm import VARIANTS, LMConfig, MusicLM, count_parameters
from ostinato.training.distributed import deterministic
from ostinato.training.flops import step_flops
from ostinato.training.gpus import peak_flops, timed_flops
from ostinato.training.memory import activations

TEXT = 64
SMALL = {"width": 192, "heads": 4, "feed_forward": 384, "state": 64, "chunk": 32, "dropout": 0.0, "text_width": 384}
BLOCKS = {"prefix-mamba": 5, "prefix-simba": 6, "cross-simba": 5, "cross-transformer": 6}
RATES = {"paper": 44100 / 512, "small": 50.0}  # frames a second
SECONDS = {"paper": 30, "small": 10}
PEERS = {"transformers Mamba2": "prefix-mamba", "transformers MusicGen decoder": "cross-transformer"}
KERNELS = " + mamba-ssm"


class Peer(nn.Module):
    """A model of transformers with the sizes of ours: codes [b, 1, S], text, targets -> losses [1]."""

    def __init__(self, name: str, c: LMConfig):
        super().__init__()
        from transformers import Mamba2Config, Mamba2ForCausalLM, MusicgenDecoderConfig, MusicgenForCausalLM

        V, inner = c.codebook_size + 1, c.expand * c.width
        self.cross = name != "transformers Mamba2"
        if self.cross:
            self.project = nn.Linear(c.text_width, c.width)
            settings = MusicgenDecoderConfig(
                vocab_size=c.codebook_size, hidden_size=c.width, num_hidden_layers=c.blocks, ffn_dim=c.feed_forward,
                num_attention_heads=c.heads, num_codebooks=1, dropout=c.dropout, attn_implementation="sdpa",
                max_position_embeddings=4096,
            )  # fmt: skip
            self.model: nn.Module = MusicgenForCausalLM(settings)
        else:
            settings = Mamba2Config(
                vocab_size=V, hidden_size=c.width, num_hidden_layers=2 * c.blocks, state_size=c.state, expand=c.expand,
                head_dim=c.head_width, num_heads=inner // c.head_width, n_groups=1, conv_kernel=c.conv,
                chunk_size=c.chunk, pad_token_id=0, bos_token_id=0, eos_token_id=0,
            )  # fmt: skip
            self.model = Mamba2ForCausalLM(settings)

    def forward(self, steps: Tensor, text: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        if self.cross:
            logits = self.model(steps.flatten(0, 1), encoder_hidden_states=self.project(text)).logits
        else:
            # As long as our prefix.
            prefix = torch.zeros(len(steps), text.shape[1], dtype=torch.long, device=steps.device)
            logits = self.model(torch.cat([prefix, steps[:, 0]], 1)).logits[:, text.shape[1] :]
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")[None]


def kernels_of_mamba_ssm() -> None:
    """Put mamba-ssm's kernels in the place of `ssd`."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    import ostinato.models.mamba

    def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        # 256: its own default. A fresh state is zero, which it takes for granted.
        y = mamba_chunk_scan_combined(x, dt, A, B.unsqueeze(2), C.unsqueeze(2), 256)
        return y, state

    ostinato.models.mamba.ssd = ssd  # which layers take when they are made


def config_of(job: dict) -> LMConfig:
    name = job["model"].removesuffix(KERNELS)
    variant = PEERS.get(name, name)
    if job["size"] == "paper":
        return LMConfig(variant)
    return LMConfig(variant, blocks=BLOCKS[variant], **SMALL)


def work(job: dict) -> dict:
    """Train one model for a few steps: what was measured."""
    device, c = torch.device(job["device"]), config_of(job)
    cuda, name = device.type == "cuda", job["model"].removesuffix(KERNELS)
    if name != job["model"]:
        kernels_of_mamba_ssm()
    if job["deterministic"]:
        deterministic()
    torch.manual_seed(0)
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model = Peer(name, c) if name in PEERS else MusicLM(c)
    model.to(device).train()
    checkpointing = job["checkpointing"]
    if checkpointing:
        model.model.gradient_checkpointing_enable() if name in PEERS else setattr(model, "checkpointing", True)
    run = torch.compile(model) if job["compile"] else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    frames = round(job["seconds"] * RATES[job["size"]])
    steps = torch.randint(c.codebook_size, (job["batch"], 1, frames), device=device)
    text = torch.randn(job["batch"], TEXT, c.text_width, device=device)
    mask = torch.ones(job["batch"], TEXT, dtype=torch.bool, device=device)
    times = []
    for _ in range(job["rounds"] + 2):
        began = now(cuda)
        with torch.autocast(device.type, torch.bfloat16, not job["fp32"]):
            losses = run(steps, text, mask, steps)
        (losses / steps.numel()).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(now(cuda) - began)
    used = (
        torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - imported
    )
    N, ours = count_parameters(model), name not in PEERS
    planned = activations(c, job["batch"], frames, TEXT, not job["fp32"], checkpointing)[1] + 16 * N if ours else None
    seconds = median(times[2:])
    found = {"parameters": N, "seconds": seconds, "tokens/s": job["batch"] * frames / seconds, "peak": used}
    return found | {"planned": planned, "flops": step_flops(c, job["batch"], frames, TEXT)}


def now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def peer_of(model: str, found: dict[str, dict]) -> str | None:
    """What a model is set beside: itself on mamba-ssm's kernels, or else a model of transformers."""
    if model in PEERS:
        return None
    if model + KERNELS in found:
        return model + KERNELS
    name = model.removesuffix(KERNELS)
    kind = "cross-transformer" if name == "cross-transformer" else "prefix-mamba"
    return next((peer for peer in found if PEERS.get(peer) == kind), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="paper", choices=list(RATES))
    parser.add_argument("--models", help="some of those of the table, with commas between (default: all)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, help="of a clip (default: 30, small: 10)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--checkpointing", action="store_true", help="of activations")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--fp32", action="store_true", help="no autocast, as for a CPU without bfloat16")
    parser.add_argument("--deterministic", action="store_true", help="kernels that give the same bits each time")
    parser.add_argument("--json", metavar="FILE", help="write every figure")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        return print(json.dumps(work(json.loads(args.job))))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = [*VARIANTS, *PEERS]
    if device.type == "cuda" and find_spec("mamba_ssm"):
        names[4:4] = [v + KERNELS for v in VARIANTS if v != "cross-transformer"]
    chosen = args.models.split(",") if args.models else names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"no model {unknown[0]!r} here; there are: {', '.join(names)}")
    rate = peak_flops(device) or timed_flops(device, torch.bfloat16)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, {rate / 1e12:.3g} TFLOP/s, torch {torch.__version__}; mamba-ssm "
          f"{'installed' if find_spec('mamba_ssm') else 'not installed'}; {vars(args)}\n", flush=True)  # fmt: skip
    found: dict[str, dict] = {}
    for model in chosen:
        job = vars(args) | {"model": model, "device": device.type, "seconds": args.seconds or SECONDS[args.size]}
        done = subprocess.run([sys.executable, __file__, "--job", json.dumps(job)], capture_output=True, text=True)
        if done.returncode:
            print(f"{model}: {(done.stderr.strip().splitlines() or [done.returncode])[-1]}", flush=True)
        else:
            found[model] = json.loads(done.stdout.splitlines()[-1])
    print(
        "\n| model | parameters | ms a step | tokens/s | MFU | peak GB | planned GB | x peer |\n" + "| --- " * 8 + "|"
    )
    for model, r in found.items():
        peer = peer_of(model, found)
        ratio = f"{r['tokens/s'] / found[peer]['tokens/s']:.2f} x {peer}" if peer else "-"
        planned = f"{r['planned'] / 1e9:.2f}" if r["planned"] else "-"
        cells = [model, f"{r['parameters'] / 1e6:.1f} M", f"{1e3 * r['seconds']:.0f}", f"{r['tokens/s']:,.0f}"]
        cells += [f"{r['flops'] / r['seconds'] / rate:.1%}", f"{r['peak'] / 1e9:.2f}", planned, ratio]
        print("| " + " | ".join(cells) + " |")
    if args.json:
        rows = [{"model": model, "ms": 1e3 * r["seconds"], "mfu": r["flops"] / r["seconds"] / rate} | r
                for model, r in found.items()]  # fmt: skip
        Path(args.json).write_text(json.dumps({"machine": where, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
