"""State-space duality by each way of computing it: how right, how fast, in how much memory.

    python benchmarks/ssd.py                       # a GPU: the paper's layer (32 heads of 64, state 512), 4 x 30 s
    python benchmarks/ssd.py --frames 500 --batch 1 --dtype float32     # a CPU
    python benchmarks/ssd.py --frames 2584 --batch 1 --dtype float32 --ways "ostinato, eager" --chunks 32,64,128,192,256

Ways: `ssd.ssd`, and the same under torch.compile; where they are installed, the Triton kernels of mamba-ssm
(`mamba_chunk_scan_combined`) and of flash-linear-attention (`chunk_simple_gla`, B and C repeated for each head, as it
has no groups). Each at its own chunk lengths. A way that is not to be had says why.

Error: the largest difference from `ssd.ssd` in float64 over `--check` frames, as a share of the largest value
there: of y, of the last state, and of the gradients of x, dt, A, B, C and the first state. Float64 itself is checked
against the recurrence, a step at a time. Time: median of `--rounds`, after two that do not count (which compile); peer:
the time of mamba-ssm, or where there is none of the first row, over this one's, so more is faster. Memory: the most
that lives during forward and backward on top of what is given, by CUDA's allocator; on a CPU by counting storages.
"""

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median

import torch
from torch import Tensor

from ostinato.models.ssd import ssd
from ostinato.training.memory import Live

NAMES = ("x", "dt", "A", "B", "C", "state")
SSD = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def mamba_ssm(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(
        x, dt, A, B.unsqueeze(2), C.unsqueeze(2), chunk, initial_states=state, return_final_states=True
    )


def fla(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    from fla.ops.simple_gla import chunk_simple_gla

    q, k = (v.unsqueeze(2).expand(-1, -1, x.shape[2], -1).contiguous() for v in (C, B))
    xdt = x * dt.to(x.dtype).unsqueeze(-1)
    y, last = chunk_simple_gla(
        q, k, xdt, dt * A, scale=1.0, initial_state=state.mT.contiguous(), output_final_state=True
    )
    return y, last.mT


WAYS: list[tuple[str, SSD, tuple[int, ...], str]] = [  # name, function, chunk lengths, package
    ("ostinato, eager", ssd, (64, 128, 256), "torch"),
    ("ostinato, compiled", torch.compile(ssd, dynamic=False), (64, 128, 256), "torch"),
    ("mamba-ssm, Triton", mamba_ssm, (128, 256), "mamba_ssm"),
    ("flash-linear-attention, Triton", fla, (64,), "fla"),
]


def inputs(args: argparse.Namespace, frames: int, dtype: torch.dtype) -> list[Tensor]:
    """x, dt, A, B, C and a first state, as a layer at initialisation has them; float32 where a layer has float32."""
    g = torch.Generator().manual_seed(0)
    b, h, p, n = args.batch, args.heads, args.head_width, args.state
    x, B, C = (torch.randn(b, frames, *last, generator=g) for last in ((h, p), (n,), (n,)))
    dt = torch.exp(torch.empty(b, frames, h).uniform_(-6.9, -2.3, generator=g))  # 0.001 to 0.1
    A = -torch.empty(h).uniform_(1, 16, generator=g)
    state = torch.randn(b, h, p, n, generator=g)
    wide = torch.promote_types(dtype, torch.float32)
    # B and C as large as makes y about as large as x.
    given = [x.to(dtype), dt.to(wide), A.to(wide), B.to(dtype), (C / n**0.5).to(dtype), state.to(wide)]
    return [v.to(args.device).requires_grad_() for v in given]


def recurrence(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    steps = []
    for t in range(x.shape[1]):
        new = torch.einsum("bh,bhp,bn->bhpn", dt[:, t], x[:, t], B[:, t])
        state = state * (dt[:, t] * A).exp()[..., None, None] + new
        steps.append(torch.einsum("bhpn,bn->bhp", state, C[:, t]))
    return torch.stack(steps, 1), state


def outcome(way: SSD, given: list[Tensor], chunk: int) -> dict[str, Tensor]:
    """y, the last state, and the gradients of a fixed random sum of both."""
    y, last = way(*given, chunk)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(v.shape, generator=g).to(v) for v in (y, last)]
    (y * weights[0]).sum().add((last * weights[1]).sum()).backward()
    found = {"y": y.detach(), "last state": last.detach()} | dict(zip(NAMES, (v.grad for v in given), strict=True))
    for v in given:
        v.grad = None
    return found


def errors(found: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, float]:
    return {k: float((found[k].double() - v.double()).abs().max() / v.double().abs().max()) for k, v in right.items()}


def timed(args: argparse.Namespace, way: SSD, chunk: int, dtype: torch.dtype) -> tuple[float, float, int | None]:
    """Seconds forward, seconds forward and backward, and bytes at the peak (None where they cannot be counted)."""
    cuda, given = args.device == "cuda", inputs(args, args.frames, dtype)
    forward, both = [], []
    for i in range(args.rounds + 2):
        began = now(cuda)
        y, last = way(*given, chunk)
        between = now(cuda)
        (y.sum() + last.sum()).backward()
        if i > 1:
            forward.append(between - began)
            both.append(now(cuda) - began)
        del y, last
        for v in given:
            v.grad = None
    peak = None
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        outcome(way, given, chunk)
        peak = torch.cuda.max_memory_allocated() - before
    elif way is ssd:
        with Live() as live:
            outcome(way, given, chunk)
        peak = live.peak
    return median(forward), median(both), peak


def now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=2584, help="30 s of DAC's (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--head-width", type=int, default=64)
    parser.add_argument("--state", type=int, default=512)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of x, B and C")
    parser.add_argument("--check", type=int, default=320, help="frames of the comparison with float64")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--ways", default="", help="those only whose names begin so")
    parser.add_argument("--chunks", help="with commas between, in place of each way's own")
    args = parser.parse_args()
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, args.dtype)
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}; {vars(args)}", flush=True)

    exact = inputs(args, args.check, torch.float64)
    right = outcome(ssd, exact, 64)
    stepwise = errors(
        outcome(recurrence, inputs(args, 40, torch.float64), 1), outcome(ssd, inputs(args, 40, torch.float64), 16)
    )
    print(f"float64, chunked against the recurrence over 40 frames: at most {max(stepwise.values()):.1e}\n", flush=True)

    rows: list[tuple[str, int, dict[str, float], float, float, int | None]] = []
    lacking = []
    asked = tuple(int(q) for q in args.chunks.split(",")) if args.chunks else ()
    for label, way, chunks, package in WAYS:
        if not label.startswith(args.ways):
            continue
        if not find_spec(package):
            lacking.append(f"{label}: not installed")
            continue
        for chunk in asked or chunks:
            try:
                wrong = errors(outcome(way, inputs(args, args.check, dtype), chunk), right)
                rows.append((label, chunk, wrong, *timed(args, way, chunk, dtype)))
            except Exception as error:  # of a kernel or compiler: the row says so, and the others are measured
                lacking.append(
                    f"{label}, chunk {chunk}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
                )
    base = min((r[4] for r in rows if r[0].startswith("mamba-ssm")), default=rows[0][4])
    print(
        "| way | chunk | forward ms | with backward ms | peer | peak MB | "
        + " | ".join(f"error of {k}" for k in right)
        + " |"
    )
    print("| " + " | ".join(["---"] * (6 + len(right))) + " |")
    for label, chunk, wrong, forward, both, peak in rows:
        memory = f"{peak / 1e6:.0f}" if peak is not None else "-"
        cells = [label, str(chunk), f"{1e3 * forward:.2f}", f"{1e3 * both:.2f}", f"{base / both:.2f}", memory]
        print("| " + " | ".join(cells + [f"{v:.1e}" for v in wrong.values()]) + " |")
    print("\n".join(["", *lacking]))


if __name__ == "__main__":
    main()
