"""How fast a training run goes."""

import torch

from ostinato.training.gpus import peak_flops


class Throughput:
    """Of the steps since the last line of the log, validation and checkpoints left out."""

    def __init__(self, device: torch.device):
        self.peak = peak_flops(device)  # FLOP/s, where it is known
        self.restart()

    def restart(self) -> None:
        self.steps, self.seconds, self.tokens, self.flops = 0, 0.0, 0.0, 0

    def add(self, seconds: float, tokens: float, flops: int) -> None:
        """One step; tokens of all processes, FLOPs of one."""
        self.steps, self.seconds = self.steps + 1, self.seconds + seconds
        self.tokens, self.flops = self.tokens + tokens, self.flops + flops

    def speeds(self) -> dict[str, float]:
        """mfu: model FLOPs utilisation, the share of the GPUs' peak that `flops.step_flops` makes up, where both are
        known."""
        out = {"steps_per_second": self.steps / self.seconds}
        if self.tokens:
            out["tokens_per_second"] = self.tokens / self.seconds
        if self.flops and self.peak:
            out["mfu"] = self.flops / self.seconds / self.peak
        return out


def progress_line(metrics: dict[str, float], left: float) -> str:
    """The progress line: metrics, and the seconds left."""
    parts = [f"loss {metrics['loss']:.4f}", f"{metrics['steps_per_second']:.2f} steps/s"]
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in metrics:
        parts.append(f"{metrics['mfu']:.1%} MFU")
    hours, seconds = divmod(round(left), 3600)
    return " · ".join([*parts, f"left {hours}:{seconds // 60:02d}:{seconds % 60:02d}"])
