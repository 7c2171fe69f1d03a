"""The paper's statements about cost (arXiv 2601.14786), worked out again: python recipes/paper/arithmetic.py

N: trainable parameters as counted here; D: tokens, that is steps of the pattern; "counted": `ostinato.training.flops`,
every product of matrices forward and backward, with 64 tokens of text.
"""

from ostinato.models.lm import VARIANTS, LMConfig
from ostinato.training.flops import step_flops
from ostinato.training.gpus import GPUS
from ostinato.training.plan import TEXT, parameters

DAC, ENCODEC = 44100 / 512, 50  # frames a second
CHUNK = 128  # of the configs
SHADERS = 35.6e12  # FLOP/s of an RTX 3090 in float32, and in bfloat16 without its tensor cores (GA102 whitepaper)
# MusicGen-small (arXiv 2306.05284): 30 s clips of 4 codebooks by delay, batch 192, 1M steps.
MUSICGEN = LMConfig("cross-transformer", 4, "delay", codebook_size=2048, heads=16, feed_forward=4096)


def size(config: LMConfig) -> int:
    return sum(parameters(config).values())


def sixfold(n: float, seconds: float, rate: float, batch: int, steps: float) -> float:
    """6 N D."""
    return 6 * n * round(seconds * rate) * batch * steps


def main() -> None:
    simba, steps = LMConfig(chunk=CHUNK), 100_000
    N, frames = size(simba), round(30 * DAC)
    paper = sixfold(300e6, 30, ENCODEC, 192, 1e6)
    ours = sixfold(size(MUSICGEN), 30, ENCODEC, 192, 1e6)
    counted = step_flops(MUSICGEN, 192, 30 * ENCODEC, TEXT) * 1e6
    tensor = GPUS["RTX 3090"].tflops * 1e12
    print("MusicGen-small, 1M steps of 192 clips of 30 s: the paper has 10^20 FLOPs, over 4,044 hours of one RTX 3090")
    print(f"  6 x 300 M x D                          {paper:.3g}")
    print(f"  6 N D, N = {size(MUSICGEN) / 1e6:.1f} M                     {ours:.3g}")
    print(f"  counted                                {counted:.3g}")
    print(f"  6 x 300 M x D at {SHADERS / 1e12:.1f} TFLOP/s, all of it  {paper / SHADERS / 3600:,.0f} h")
    print(f"  the same at {tensor / 1e12:.1f}, the tensor cores', 40 %  {paper / tensor / 0.4 / 3600:,.0f} h")
    print(
        f"\nPrefix SiMBA, N = {N / 1e6:.1f} M, {steps:,} steps: the paper has 10^19 FLOPs, and 9 % of MusicGen-small's"
    )
    print("  seconds  clips a step   6 N D      of 6 x 300 M x D   hours of audio   passes over 457 h")
    for seconds in (30, 25, 10):
        for clips in (128, 4):
            f, heard = sixfold(N, seconds, DAC, clips, steps), seconds * clips * steps / 3600
            print(f"  {seconds:7}  {clips:12}   {f:.3g}   {f / paper:16.1%}   {heard:14,.0f}   {heard / 457.45:17.1f}")
    exact = step_flops(simba, 128, frames, TEXT) * steps
    print(f"  counted, 128 clips of 30 s: {exact:.3g}, {exact / counted:.1%} of MusicGen-small's counted")
    print("\nOne step of 128 clips of 30 s: the paper gives every model as many steps")
    print(f"  {'':18} {'N':>8} {'6 N D':>10} counted")
    base = step_flops(LMConfig("cross-transformer"), 128, frames, TEXT)
    for variant in VARIANTS:
        c = LMConfig(variant, chunk=CHUNK)
        f = step_flops(c, 128, frames, TEXT)
        six = sixfold(size(c), 30, DAC, 128, 1)
        print(f"  {variant:18} {size(c) / 1e6:6.1f} M {six:10.3g} {f:.3g}, {f / base:.2f} x cross-transformer's")
    print("\nParameters of Prefix SiMBA by blocks: the paper has 281 M, 141 M, 94.4 M")
    for blocks in (24, 12, 6):
        print(f"  {blocks:2} blocks {size(LMConfig(blocks=blocks)) / 1e6:6.1f} M")


if __name__ == "__main__":
    main()
