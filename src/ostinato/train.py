"""The training loop, one for every task: schedule, accumulation, validation, checkpoints, resume.

A task (`LMTask`, `CodecTask`) brings modules, data and losses. Everything random in a step is seeded by (seed, step,
micro-batch, process), and the order of the clips is a function of the seed, so a resumed run repeats nothing and skips
nothing without any generator being saved.
"""

import dataclasses
import json
import math
import os
import pickle
import random
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ostinato.audio import write_audio
from ostinato.config import CodecRun, LMRun, Optimisation, build
from ostinato.errors import UserError


def train(run: LMRun | CodecRun, fresh: bool = False) -> Path:
    """Run a config to its last step, continuing from the newest checkpoint in `run.output` unless `fresh`.

    Returns the folder of the last checkpoint. Raises UserError if the data, the output folder or an earlier
    checkpoint do not fit the config.
    """
    from ostinato.codec_task import CodecTask
    from ostinato.lm_task import LMTask

    output = Path(run.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise UserError(f"output folder {output} cannot be written: {error.strerror}") from error
    hyper = run.train
    accelerator = Accelerator(
        mixed_precision=precision(hyper),
        log_with="tensorboard",
        project_dir=output,
        step_scheduler_with_optimizer=False,
    )
    set_seed(hyper.seed)
    if fresh and accelerator.is_main_process:
        for old in [*checkpoints(output), output / "samples", output / "tensorboard"]:
            shutil.rmtree(old, ignore_errors=True)
        (output / "log.jsonl").unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    task: Any = LMTask(run, accelerator.device) if isinstance(run, LMRun) else CodecTask(run, accelerator.device)
    return Loop(run, task, accelerator, output).run()


def precision(hyper: Optimisation) -> str:
    if hyper.precision == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return {"fp32": "no", "bf16": "bf16"}[hyper.precision]


def learning_rate(step: int, hyper: Optimisation) -> float:
    """Linear warm-up, then cosine to `final_learning_rate`, by optimizer step (counted from 0)."""
    if step < hyper.warmup:
        return hyper.learning_rate * (step + 1) / hyper.warmup
    progress = (step - hyper.warmup) / max(1, hyper.steps - hyper.warmup)
    low = hyper.final_learning_rate
    return low + (hyper.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def optimizer_for(module: nn.Module, hyper: Optimisation) -> torch.optim.AdamW:
    """AdamW; vectors and scalars (norms, biases, A_log, D) are not decayed."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": hyper.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=hyper.learning_rate, betas=hyper.betas)


def sample_order(size: int, batch: int, seed: int, first: int, rank: int, world: int) -> Iterator[list[int]]:
    """Endless batches of clip numbers from micro-batch `first` on: a new permutation each pass over the data."""
    position = first * batch * world
    epoch, order = -1, []
    while True:
        chosen = []
        for i in range(position, position + batch * world):
            if i // size != epoch:
                epoch = i // size
                order = torch.randperm(size, generator=torch.Generator().manual_seed(seed * 100_003 + epoch)).tolist()
            chosen.append(order[i % size])
        position += batch * world
        yield chosen[rank * batch : (rank + 1) * batch]


class Seeded(Dataset):
    """Clips by (number, seed, place in the batch): what is random about one does not depend on who reads it, so that
    a run with worker processes resumes, too, and gives what one without them does."""

    def __init__(self, data: Any):
        self.data = data

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        i, seed, place = key
        random.seed(f"{seed}.{place}")
        return self.data[i]


def checkpoints(output: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    return sorted(p for p in output.glob("step-*") if (p / "training.json").is_file())


class Loop:
    def __init__(self, run: LMRun | CodecRun, task: Any, accelerator: Accelerator, output: Path):
        self.run_config, self.task, self.accelerator, self.output = run, task, accelerator, output
        self.hyper = run.train
        self.step = self.resume()
        for name in task.modules:
            task.modules[name], self.optimizers[name] = accelerator.prepare(task.modules[name], self.optimizers[name])
        self.stop = False

    def resume(self) -> int:
        """Load the newest checkpoint, if any; returns the number of steps done."""
        found = checkpoints(self.output)
        if not found:
            self.task.start()
            self.optimizers = self.make_optimizers()
            return 0
        try:
            training = json.loads((found[-1] / "training.json").read_text())
            state = torch.load(found[-1] / "optimizers.pt", map_location=self.accelerator.device, weights_only=True)
            states, step = {name: state[name] for name in self.task.modules}, int(training["step"])
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            EOFError,
            RuntimeError,
            struct.error,
            pickle.PickleError,
        ) as e:
            raise UserError(f"{found[-1]} is damaged ({e}); delete it to go on from the checkpoint before it") from e
        was = build(type(self.run_config.model), training["run"]["model"], f"{found[-1]}: model")
        if was != self.run_config.model:
            now = dataclasses.asdict(self.run_config.model)
            differ = ", ".join(f"{k} was {v}, is {now[k]}" for k, v in dataclasses.asdict(was).items() if v != now[k])
            raise UserError(
                f"{found[-1]} is of another model ({differ}); give another output folder, or --fresh to start over"
            )
        self.task.load(found[-1])
        self.optimizers = self.make_optimizers()
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(states[name])
        if self.accelerator.is_main_process:
            self.forget_after(step)
        return step

    def make_optimizers(self) -> dict[str, torch.optim.AdamW]:
        return {name: optimizer_for(module, self.hyper) for name, module in self.task.modules.items()}

    def forget_after(self, step: int) -> None:
        """Take lines of steps that will be done again out of log.jsonl."""
        path = self.output / "log.jsonl"
        if path.is_file():
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
            os.replace(temporary, path)

    def run(self) -> Path:
        hyper, accelerator = self.hyper, self.accelerator
        console = Console(stderr=True)
        if self.step >= hyper.steps:
            console.print(
                f"{self.output} has {self.step} steps already, {hyper.steps} are asked: nothing is left to do; "
                "raise train.steps, or start over with --fresh"
            )
            return checkpoints(self.output)[-1]
        accelerator.init_trackers("tensorboard")
        if accelerator.is_main_process:
            console.print(self.task.describe())
            if not len(self.task.held_out):
                console.print("no clip is in the validation split, so there will be no validation loss")
            if self.run_config.init and not self.step:
                console.print(f"beginning with the weights of {self.run_config.init}, and with its model section")
            if self.step:
                console.print(f"resuming from step {self.step}")
        batches = iter(self.loader())
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        previous = {s: signal.signal(s, self.interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            with Progress(*columns, console=console, disable=not accelerator.is_main_process) as progress:
                bar = progress.add_task("training", total=hyper.steps, completed=self.step)
                began, first = time.monotonic(), self.step
                while self.step < hyper.steps and not self.stop:
                    metrics = self.optimise(batches)
                    self.step += 1
                    rate = (self.step - first) / (time.monotonic() - began)
                    progress.update(
                        bar, completed=self.step, description=f"loss {metrics['loss']:.4f} · {rate:.2f} steps/s"
                    )
                    if self.step % hyper.log_every == 0:
                        self.log({"steps_per_second": rate, **metrics}, "train")
                    last = self.step == hyper.steps
                    if self.step % hyper.validate_every == 0 or last:
                        self.validate(progress.console)
                    if self.step % hyper.checkpoint_every == 0 or last or self.stop:
                        self.checkpoint()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            accelerator.end_training()
        if self.step < hyper.steps:
            if checkpoints(self.output)[-1:] != [self.folder()]:  # the signal came after the last look
                self.checkpoint()
            console.print(f"interrupted: step {self.step} saved; the same command continues from it")
            raise KeyboardInterrupt
        return checkpoints(self.output)[-1]

    def loader(self) -> DataLoader:
        hyper, accelerator = self.hyper, self.accelerator
        first = self.step * hyper.accumulation
        order = sample_order(
            len(self.task.data), hyper.batch, hyper.seed, first, accelerator.process_index, accelerator.num_processes
        )
        keyed = ([(i, self.seed_of(n), place) for place, i in enumerate(clips)] for n, clips in enumerate(order, first))
        return DataLoader(
            Seeded(self.task.data),
            batch_sampler=keyed,
            num_workers=hyper.workers,
            collate_fn=self.task.collate,  # type: ignore[arg-type]
        )

    def seed_of(self, micro: int) -> int:
        """The seed of micro-batch `micro` of the run, in this process."""
        step, micro = divmod(micro, self.hyper.accumulation)
        return (((self.hyper.seed * 1_000_003 + step) * 1009 + micro) * 64 + self.accelerator.process_index) % 2**63

    def optimise(self, batches: Iterator) -> dict[str, float]:
        """One optimizer step over `accumulation` micro-batches; returns the mean metrics."""
        hyper, accelerator = self.hyper, self.accelerator
        rate = learning_rate(self.step, hyper)
        total: dict[str, float] = {}
        for micro in range(hyper.accumulation):
            batch = next(batches)
            seed = self.seed_of(self.step * hyper.accumulation + micro)
            random.seed(seed)
            torch.manual_seed(seed)
            final = micro == hyper.accumulation - 1
            modules = list(self.task.modules.values())
            with nullcontext() if final else accelerator.no_sync(modules[0]):
                metrics = self.task.backward(accelerator, batch, self.step, 1 / hyper.accumulation)
            for name, value in metrics.items():
                total[name] = total.get(name, 0.0) + value / hyper.accumulation
        for name, optimizer in self.optimizers.items():
            parameters = list(self.task.modules[name].parameters())
            if all(p.grad is None for p in parameters):
                continue
            norm = float(accelerator.clip_grad_norm_(parameters, hyper.clip_norm))
            if not math.isfinite(norm):
                raise UserError(
                    f"training diverged at step {self.step}: the gradient of {name} is {norm}; the last "
                    f"checkpoint is good: lower train.learning_rate (now {hyper.learning_rate}) and run again"
                )
            total[f"gradient_norm/{name}"] = norm
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total["learning_rate"] = rate
        return total

    def log(self, metrics: dict[str, float], prefix: str) -> None:
        self.accelerator.log({f"{prefix}/{name}": value for name, value in metrics.items()}, step=self.step)
        if self.accelerator.is_main_process:
            line = {"step": self.step, "kind": prefix, "time": round(time.time(), 1), **metrics}
            with open(self.output / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")

    def validate(self, console: Console) -> None:
        if not len(self.task.held_out):
            return
        torch.manual_seed(self.hyper.seed)
        metrics = self.task.validate(self.accelerator)
        self.log(metrics, "validation")
        if self.accelerator.is_main_process:
            shown = " · ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            console.print(f"step {self.step}: validation {shown}")

    def checkpoint(self) -> None:
        """Write step-XXXXXXX (model, optimizers, training.json) whole or not at all, prune old ones, render samples."""
        accelerator = self.accelerator
        accelerator.wait_for_everyone()
        if not accelerator.is_main_process:
            return
        folder, temporary = self.folder(), self.output / ".checkpoint"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            self.task.save(temporary, accelerator)
            torch.save({name: o.state_dict() for name, o in self.optimizers.items()}, temporary / "optimizers.pt")
            training = {"step": self.step, "seed": self.hyper.seed, "run": dataclasses.asdict(self.run_config)}
            (temporary / "training.json").write_text(json.dumps(training, indent=2) + "\n")
            for path in temporary.rglob("*"):
                if path.is_file():
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(temporary, folder)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save tells of a full disk by the last
            shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(
                f"the checkpoint of step {self.step} could not be written ({error}); earlier ones are whole: make room "
                "and run the same command again"
            ) from error
        for old in checkpoints(self.output)[: -self.hyper.keep]:
            shutil.rmtree(old)
        for name, audio, sample_rate in self.task.samples(accelerator):
            samples = self.output / "samples" / folder.name
            samples.mkdir(parents=True, exist_ok=True)
            write_audio(samples / f"{name}.wav", audio, sample_rate)
            for tracker in accelerator.trackers:
                tracker.writer.add_audio(name, audio, self.step, sample_rate)  # type: ignore[attr-defined]

    def folder(self) -> Path:
        return self.output / f"step-{self.step:07d}"

    def interrupt(self, number: int, *_: Any) -> None:
        """The first signal ends the run after this step; the second one ends it at once."""
        self.stop = True
        signal.signal(number, signal.SIG_DFL)
