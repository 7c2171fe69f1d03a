"""The training loop, one for every task: schedule, accumulation, validation, checkpoints, resume.

A task (`LMTask`, `FineTask`, `CodecTask`) brings modules, data and losses. Everything random in a step is seeded by
(seed, step, micro-batch), and by a clip's place in it or by the process; the order of the clips is a function of the
seed. So a resumed run repeats nothing and skips nothing without any generator being saved, and two processes with half
the batch see what one with all of it sees.
"""

import dataclasses
import math
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from safetensors.torch import save_file
from torch import Tensor, nn

from ostinato.training import checkpoint
from ostinato.training.batch_order import make_loader, sample_order, seed_of
from ostinato.training.checkpoint import checkpoints
from ostinato.training.compilation import make_fast
from ostinato.training.config import CodecRun, FineRun, LMRun, Run
from ostinato.training.distributed import deterministic, is_first, make_accelerator, shard, whole, without_sync
from ostinato.training.ema import EMA
from ostinato.training.fit import check_fits
from ostinato.training.log import append, forget_after
from ostinato.training.optimizer import all_finite, clip_gradients, learning_rate, load_state, optimizers_for
from ostinato.training.throughput import Throughput, progress_line
from ostinato.utils.audio import write_audio
from ostinato.utils.bars import Bars
from ostinato.utils.errors import UserError
from ostinato.utils.files import only_writer
from ostinato.utils.spectrogram import write_spectrogram


def train(run: Run, fresh: bool = False) -> Path:
    """Run a config to its last step, continuing from the newest whole checkpoint in `run.output` unless `fresh`.

    Returns the folder of the last checkpoint. Raises UserError if the data, the output folder or an earlier
    checkpoint do not fit the config, if training diverges, and if a checkpoint cannot be written.
    """
    from ostinato.training.codec_task import CodecTask
    from ostinato.training.fine_task import FineTask
    from ostinato.training.lm_task import LMTask

    output = Path(run.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise UserError(f"output folder {output} cannot be written: {error.strerror}") from error
    if (output / "config.json").is_file():
        raise UserError(f"{output} holds a model, which would hide the run's checkpoints: give another output folder")
    if fresh and run.init and Path(run.init).resolve().is_relative_to(output.resolve()):
        raise UserError(f"--fresh would delete {run.init}, which the run is to begin with: give another output folder")
    with only_writer(output) if is_first() else nullcontext():
        accelerator = make_accelerator(run.train, output)
        set_seed(run.train.seed)
        check_fits(run, accelerator.device)
        if run.train.deterministic:
            deterministic()
        tasks: dict[type, Any] = {LMRun: LMTask, FineRun: FineTask, CodecRun: CodecTask}
        return begin(run, tasks[type(run)](run, accelerator.device), accelerator, output, fresh)


def begin(run: Run, task: Any, accelerator: Accelerator, output: Path, fresh: bool) -> Path:
    """What `train` does once it holds the folder."""
    if fresh and accelerator.is_main_process:
        checkpoint.delete_run(output)
    accelerator.wait_for_everyone()
    return Loop(run, task, accelerator, output).run()


class Loop:
    def __init__(self, run: Run, task: Any, accelerator: Accelerator, output: Path):
        self.run_config, self.task, self.accelerator, self.output = run, task, accelerator, output
        self.hyper = run.train
        self.console = Console(stderr=True, quiet=not accelerator.is_main_process, soft_wrap=True)
        self.asked = self.agreed = False  # to stop: this process, by a signal; all of them
        self.between_steps = True  # weights and optimizers belong to self.step
        self.scored: tuple[int, float, bool] = (0, math.inf, False)  # step, lowest score, of the averaged weights?
        self.throughput = Throughput(accelerator.device)
        found = self.find()
        self.step = int(found[1]["step"]) if found else 0
        states = self.restore(*found) if found else None
        if not found:
            task.start()
        if accelerator.is_main_process:
            forget_after(output, self.step)
        for name, module in task.modules.items():
            make_fast(module, self.hyper, accelerator.device, self.console.print)
            if self.sharded:
                shard(module, accelerator.device)
            else:
                task.modules[name] = accelerator.prepare(module)
        self.optimizers = {name: optimizers_for(module, self.hyper) for name, module in task.modules.items()}
        self.ema = EMA(self.main(), self.hyper.ema, self.hyper.ema_offload) if self.hyper.ema else None
        if states:
            for name, several in self.optimizers.items():
                for optimizer, state in zip(several, states[name], strict=True):
                    load_state(optimizer, state)
            if self.ema and "average" in states:
                self.ema.load(states["average"])

    def main(self) -> nn.Module:
        """The module that is the model."""
        return self.accelerator.unwrap_model(self.task.modules[self.task.main])

    @property
    def sharded(self) -> bool:
        return self.hyper.shard and self.accelerator.num_processes > 1

    def find(self) -> tuple[Path, dict] | None:
        """The checkpoint to go on from, the same on all processes; what differs from its config is printed."""
        shared: list = [None]
        if self.accelerator.is_main_process:
            found = checkpoint.newest_whole(self.output, self.console.print)
            if found:
                run, world = dataclasses.asdict(self.run_config), self.accelerator.num_processes
                changed = checkpoint.compare(*found, run, self.task.identity())
                if found[1].get("processes", world) != world:
                    changed["processes"] = f"{found[1]['processes']} → {world}, each with train.batch clips"
                for key, told in changed.items():
                    self.console.print(f"since {found[0].name}, {key}: {told}", highlight=False)
            shared = [found]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(shared)
        return shared[0]

    def restore(self, folder: Path, training: dict) -> dict:
        """Load a checkpoint's weights into the task; returns what optimizers.pt holds."""
        self.task.load(folder)
        try:
            states = torch.load(folder / "optimizers.pt", map_location="cpu", weights_only=True)
            wanted = [*self.task.modules, *(["average"] if "average" in states else [])]
            states = {name: states[name] for name in wanted}
            if not all(isinstance(states[name], list) for name in self.task.modules):
                raise KeyError("of an earlier version")
        except (OSError, KeyError, RuntimeError) as error:
            raise UserError(f"{folder}/optimizers.pt does not fit this run ({error}); move the folder away") from error
        return states

    def run(self) -> Path:
        hyper, accelerator, console = self.hyper, self.accelerator, self.console
        if self.step >= hyper.steps:
            console.print(
                f"{self.output} has {self.step} steps already, {hyper.steps} are asked: nothing is left to do; "
                "raise train.steps, or start over with --fresh"
            )
            return checkpoints(self.output)[-1]
        name = "tensorboard" if hyper.tracker == "tensorboard" else "ostinato"  # a folder there, a project elsewhere
        again = {"tensorboard": {"purge_step": self.step + 1}} if self.step and name == "tensorboard" else {}
        accelerator.init_trackers(name, init_kwargs=again)
        console.print(self.task.describe())
        if not len(self.task.held_out):
            why = "all data is trained on" if hyper.all_data else "no clip is in the validation split"
            console.print(f"{why}, so there will be no validation loss")
        if self.run_config.init and not self.step:
            console.print(f"beginning with the weights of {self.run_config.init}, and with its model section")
        if self.step:
            console.print(f"resuming from step {self.step}")
        rank, world = accelerator.process_index, accelerator.num_processes
        batches = iter(make_loader(self.task.data, self.task.collate, hyper, self.step, rank, world))
        columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
        previous = {s: signal.signal(s, self.interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            with Bars(*columns, console=console) as progress:
                bar = progress.add_task("", total=hyper.steps, completed=self.step)
                began, first = time.monotonic(), self.step
                while self.step < hyper.steps and not self.stopping():
                    metrics = self.optimise(batches)
                    left = (hyper.steps - self.step) * (time.monotonic() - began) / (self.step - first)
                    progress.update(bar, completed=self.step, description=progress_line(metrics, left))
                    if self.step % hyper.log_every == 0 or self.step == hyper.steps:
                        self.log(metrics, "train")
                        self.throughput.restart()
                    last = self.step == hyper.steps
                    if self.step % hyper.validate_every == 0 or last:
                        self.validate()
                    if self.step % hyper.checkpoint_every == 0 or last or self.stopping():
                        self.checkpoint()
        except Exception as error:
            self.rescue(error)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            with suppress(OSError):  # a tracker's last lines, on a full disk
                for tracker in accelerator.trackers:
                    tracker.finish()
        if self.step < hyper.steps:
            if checkpoints(self.output)[-1:] != [self.folder()]:  # the signal came after the last look
                self.checkpoint()
            console.print(f"interrupted: step {self.step} saved; the same command continues from it")
            raise KeyboardInterrupt
        good = checkpoint.leaders(checkpoints(self.output)) if accelerator.is_main_process else []
        for folder in good:
            if folder != self.folder():
                console.print(f"{folder} validated best; play it by that name, or join it, in place of the newest")
        return self.folder()

    def optimise(self, batches: Iterator) -> dict[str, float]:
        """One optimizer step over `accumulation` micro-batches; returns the mean metrics of all processes."""
        hyper, accelerator, modules = self.hyper, self.accelerator, self.task.modules
        began, rate, flops = time.monotonic(), learning_rate(self.step, hyper), 0
        total: dict[str, Tensor] = {}
        for micro in range(hyper.accumulation):
            batch = next(batches)
            if isinstance(batch, UserError):
                raise batch
            seed = seed_of(hyper, self.step * hyper.accumulation + micro) + accelerator.process_index % 64
            random.seed(seed)
            torch.manual_seed(seed)
            self.between_steps = not self.task.remembers
            final = micro == hyper.accumulation - 1
            with nullcontext() if final else without_sync(accelerator, modules[self.task.main]):
                metrics = self.task.backward(accelerator, batch, self.step, 1 / hyper.accumulation)
            flops += self.task.flops(batch) if self.throughput.peak else 0
            for name, value in metrics.items():
                total[name] = total.get(name, 0.0) + value / hyper.accumulation
        norms = {
            name: clip_gradients(modules[name], hyper.clip_norm)
            for name in self.optimizers
            if any(p.grad is not None for p in modules[name].parameters())
        }
        # The one wait for a GPU in a step.
        found = self.agree(total | {f"gradient_norm/{name}": norm for name, norm in norms.items()})
        found["learning_rate"] = rate
        bad = [f"{name} is {value}" for name, value in found.items() if not math.isfinite(value)]
        self.between_steps = False
        if bad:
            self.diverged(self.step, bad[0], found)
        for name in norms:
            for optimizer in self.optimizers[name]:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema:
            self.ema.update(self.main(), self.step)
        self.between_steps = True
        tokens = found.pop("tokens", 0.0) * hyper.accumulation * accelerator.num_processes
        self.throughput.add(time.monotonic() - began, tokens, flops)
        return self.throughput.speeds() | found

    def agree(self, metrics: dict[str, Tensor]) -> dict[str, float]:
        """Means over the processes, in one exchange, together with whether one of them was asked to stop."""
        stop = torch.tensor(float(self.asked), device=self.accelerator.device)
        values = torch.stack([stop, *(value.detach().float() for value in metrics.values())])
        asked, *means = self.accelerator.reduce(values, "mean").tolist()  # type: ignore[union-attr]
        self.agreed = asked > 0
        return dict(zip(metrics, means, strict=True))

    def stopping(self) -> bool:
        return self.asked if self.accelerator.num_processes == 1 else self.agreed

    def log(self, metrics: dict[str, float], prefix: str) -> None:
        try:
            self.accelerator.log({f"{prefix}/{name}": value for name, value in metrics.items()}, step=self.step)
            if self.accelerator.is_main_process:
                append(self.output, {"step": self.step, "kind": prefix, "time": round(time.time(), 1), **metrics})
        except OSError as error:
            raise UserError(f"the log in {self.output} cannot be written ({error.strerror}): make room") from error

    def validate(self) -> None:
        if not len(self.task.held_out):
            return
        scores = []
        for kind, weights in (("validation", nullcontext()), ("validation_ema", self.ema_weights())):
            if kind == "validation" or self.ema:
                torch.manual_seed(self.hyper.seed)
                with weights:
                    metrics = self.task.validate(self.accelerator)
                self.log(metrics, kind)
                scores.append(metrics[self.task.score])
                values = " · ".join(f"{name} {value:.4f}" for name, value in metrics.items())
                self.console.print(f"step {self.step}: {kind.replace('_', ' ')} {values}")
        self.scored = self.step, min(scores), scores[-1] < scores[0]

    def ema_weights(self) -> Any:
        return self.ema.ema_weights(self.main()) if self.ema else nullcontext()

    def checkpoint(self) -> None:
        """Write step-XXXXXXX, prune old ones, render samples. Weights that are not finite are no checkpoint."""
        if self.agree({"finite": all_finite(self.main())})["finite"] < 1:
            self.between_steps = False
            self.diverged(self.step - 1, "a weight after it is not finite", {})
        states = self.states()
        if self.accelerator.is_main_process:
            self.write(self.folder(), states)
            checkpoint.prune(self.output, self.hyper.keep, self.hyper.keep_every)
            self.render()
        self.accelerator.wait_for_everyone()

    def states(self) -> dict[str, Any]:
        """All that a checkpoint holds, whole; every process has to call it."""
        modules = {name: self.accelerator.unwrap_model(m).state_dict() for name, m in self.task.modules.items()}
        states = {"modules": modules, "optimizers": {}}
        for name, several in self.optimizers.items():
            states["optimizers"][name] = [optimizer.state_dict() for optimizer in several]
        if self.ema:
            states["average"] = self.ema.weights
        return whole(states) if self.sharded else states

    def write(self, folder: Path, states: dict[str, Any], **more: Any) -> None:
        step, score, averaged = self.scored
        training = {
            "step": self.step,
            "seed": self.hyper.seed,
            "processes": self.accelerator.num_processes,
            "score": score if step == self.step and math.isfinite(score) else None,
            "scored_on": self.task.measure(),
            "weights": "ema.safetensors" if averaged else "model.safetensors",
            "data": self.task.identity(),
            "run": dataclasses.asdict(self.run_config),
        }

        def write_files(temporary: Path) -> None:
            modules, optimizers = states["modules"], states["optimizers"]
            self.task.save(temporary, modules, {"weights": training["weights"]} if averaged else {})
            if self.ema:
                mean = self.task.export(modules[self.task.main] | states["average"])
                save_file({name: t.cpu().contiguous() for name, t in mean.items()}, temporary / "ema.safetensors")
                optimizers = optimizers | {"average": states["average"]}
            torch.save(optimizers, temporary / "optimizers.pt")

        checkpoint.write_checkpoint(folder, training | more, write_files)

    def render(self) -> None:
        """Samples of the newest checkpoint, as sound and as spectrogram, in samples/ and for TensorBoard."""
        for name, audio, sample_rate in self.task.samples(self.folder()):
            samples = self.output / "samples" / self.folder().name
            samples.mkdir(parents=True, exist_ok=True)
            write_audio(samples / f"{name}.wav", audio, sample_rate)
            picture = write_spectrogram(samples / f"{name}.png", audio, sample_rate)
            for t in self.accelerator.trackers:
                if t.name == "tensorboard":
                    t.writer.add_audio(name, audio, self.step, sample_rate)  # type: ignore[attr-defined]
                    t.writer.add_image(name, picture, self.step, dataformats="HWC")  # type: ignore[attr-defined]

    def folder(self) -> Path:
        return self.output / f"step-{self.step:07d}"

    def diverged(self, step: int, reason: str, metrics: dict[str, float]) -> NoReturn:
        """Save what led there beside the checkpoints, and raise UserError."""
        hyper, world = self.hyper, self.accelerator.num_processes
        order = sample_order(len(self.task.data), hyper.batch * world, hyper.seed, step * hyper.accumulation, 0, 1)
        numbers = [next(order) for _ in range(hyper.accumulation)]
        ids = self.task.data.store.table["id"]
        batch = {
            "step": step,
            "reason": reason,
            "metrics": {name: str(value) for name, value in metrics.items()},
            "clips": [[{"number": i, "id": ids[i].as_py()} for i in micro] for micro in numbers],
            "seeds": [seed_of(hyper, step * hyper.accumulation + micro) for micro in range(hyper.accumulation)],
        }
        folder, states = self.output / f"diverged-{step:07d}", self.states()
        if self.accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            self.write(folder, states, diverged=batch)
        self.accelerator.wait_for_everyone()
        found = checkpoints(self.output)
        good = f"{found[-1].name} is good" if found else "there is no checkpoint yet"
        raise UserError(
            f"training diverged at step {step}: {reason}; the weights and the batch (training.json: diverged) are in "
            f"{folder}, {good}: lower train.learning_rate (now {hyper.learning_rate}) and run again"
        )

    def rescue(self, error: Exception) -> NoReturn:
        """Save the steps done before raising what stopped them."""
        told = ""
        if self.between_steps and not self.sharded and self.accelerator.is_main_process:
            with suppress(UserError):
                if self.step and checkpoints(self.output)[-1:] != [self.folder()]:
                    self.write(self.folder(), self.states())
                    checkpoint.prune(self.output, self.hyper.keep, self.hyper.keep_every)
                    told = f"; step {self.step} is saved, and the same command goes on from it"
        if isinstance(error, UserError):
            raise UserError(f"{error}{told}") from error
        self.console.print(f"stopped by an error{told}")
        raise error

    def interrupt(self, number: int, *_: Any) -> None:
        """The first signal ends the run after this step; the second one ends it at once, where there is one process
        (a launcher sends several to each)."""
        self.asked = True
        if self.accelerator.num_processes == 1:
            signal.signal(number, signal.SIG_DFL)
