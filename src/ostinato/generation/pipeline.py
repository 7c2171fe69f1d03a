"""From a sentence to a waveform: text encoder, language model and codec held together, and loaded from one folder."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from ostinato.codecs.codec import SHORT_NAMES, Codec, fingerprint, load_codec, sound
from ostinato.generation.fine_stage import FineStage
from ostinato.generation.sampling import Generation, Sampling, begin, frames
from ostinato.generation.streaming import pieces
from ostinato.models.lm import LMConfig, MusicLM
from ostinato.models.text_encoder import TextEncoder, load_text_encoder
from ostinato.training.config import build
from ostinato.utils.audio import read_audio, write_audio
from ostinato.utils.errors import UserError
from ostinato.utils.files import fill, read_config, weights_file, write_model_folder

TWO_STAGE = "ostinato-two-stage"  # model_type of a folder with a language model and a fine stage
INSIDE = ("codec", "../codec")  # what config.json calls a codec in the same folder, of one stage and of two
PACK = Path(__file__).parents[1] / "packs" / "pocket"
PACKS = {"pocket": PACK, "pocket-delay": PACK / "delay"}  # the models that ship with the package: two stages, and one


@dataclass
class Clip:
    """What was generated: `audio` [1, samples] in [-1, 1] at `sample_rate` Hz, from `codes` [K, T], or from the latents
    that were snapped to them (`FineSampling.snapped`)."""

    audio: Tensor
    sample_rate: int
    codes: Tensor
    prompt: str

    def save(self, path: str | Path) -> None:
        """Write WAV, FLAC or OGG by the suffix. Raises UserError for another suffix or an unwritable folder."""
        write_audio(path, self.audio, self.sample_rate, comment=self.prompt)


@dataclass
class Ostinato:
    """A model ready to play. `config` is what config.json says of it, `sampling` the settings it plays best with.

    With a fine stage, the language model writes the first codebook and the fine stage, which has settings of its own,
    the others; sound follows a window (`FineSampling.window` seconds of music) behind the language model.
    """

    lm: MusicLM
    text: TextEncoder
    codec: Codec
    config: dict = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    fine: FineStage | None = None

    def generate(
        self,
        prompt: str | list[str],
        seconds: float = 10.0,
        seed: int = 0,
        settings: Sampling | None = None,
        continue_from: str | Path | Tensor | None = None,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> "Clip | list[Clip]":
        """One prompt -> one Clip; a list -> a list, made as one batch (clip i of a list has seed + i).

        continue_from: an audio file, or codes [K, T0] (those of a Clip) or [1, K, T0]; the clips begin with what these
            decode to and go on for `seconds`.
        settings: default, the model's own `sampling`.
        on_frame: called with the frames done and their number in all, after each.
        Raises UserError for an empty prompt list, seconds <= 0, or audio that cannot be read.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = self.frame_count(seconds)
        given = self.given(len(prompts), continue_from)
        new, heard = zip(*self.drawn(prompts, seed, settings, given, count, on_frame), strict=True)
        codes = torch.stack([*given.unbind(2), *new], 2)
        sounds = torch.stack([*self.heard(given).unbind(2), *heard], 2)
        clips = [
            Clip(sound(self.codec, row[None])[0].clamp(-1, 1).cpu(), self.codec.sample_rate, own.cpu(), text)
            for row, own, text in zip(sounds, codes, prompts, strict=True)
        ]
        return clips[0] if isinstance(prompt, str) else clips

    def begin(
        self,
        prompts: list[str],
        seed: int = 0,
        settings: Sampling | None = None,
        continue_from: str | Path | Tensor | None = None,
    ) -> Generation:
        """The state before the first new frame, for `frames`. Raises UserError as `generate` does."""
        if not prompts:
            raise UserError("no prompt given; write a sentence that says what to play")
        given = self.given(len(prompts), continue_from)[:, : self.lm.config.num_codebooks]
        return begin(
            self.lm, self.text(prompts), self.text([""]), settings or self.sampling, self.seeds(prompts, seed), given
        )

    def given(self, rows: int, continue_from: str | Path | Tensor | None) -> Tensor:
        """Codes [rows, K, T0] to continue from, T0 = 0 for none. Raises UserError as `generate` does."""
        K, size = self.num_codebooks, self.codec.codebook_size
        if continue_from is None:
            return torch.zeros(rows, K, 0, dtype=torch.long, device=self.device)
        if isinstance(continue_from, Tensor):
            given = continue_from[None] if continue_from.ndim == 2 else continue_from
        else:
            audio = read_audio(continue_from, self.codec.sample_rate)
            given = self.codec.encode(audio[None].to(self.device))[:, :K]
        if given.ndim != 3 or given.shape[1] != K or len(given) not in (1, rows):
            raise UserError(f"codes to continue from should be [{K}, frames], got {list(given.shape)}")
        if given.dtype.is_floating_point:
            raise UserError(f"codes to continue from should be whole numbers, got {given.dtype}")
        if given.numel() and (given.min() < 0 or given.max() >= size):
            raise UserError(f"codes to continue from should be 0 to {size - 1}, got {given.min()} to {given.max()}")
        return given.to(self.device).expand(rows, -1, -1)

    def drawn(
        self,
        prompts: list[str],
        seed: int,
        settings: Sampling | None,
        given: Tensor,
        count: int = 0,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """New frames after the `given` ones, `count` of them, or without end: the codes [b, K], and what `codec.sound`
        makes audio of (see `heard`). on_frame: see `play`; a fine stage's frames follow in stretches."""
        generation = self.begin(prompts, seed, settings, given)

        def new() -> Iterator[Tensor]:
            for done, frame in enumerate(islice(frames(self.lm, generation), count or None), 1):
                if on_frame:
                    on_frame(done, count)
                yield frame

        if self.fine is None:
            return ((codes, codes) for codes in new())
        read = self.fine.text or self.text
        return self.fine.refine(new(), read(prompts), read([""]), self.seeds(prompts, seed), given=given)

    def heard(self, given: Tensor) -> Tensor:
        """Codes [b, K, T] -> them, or their latents where a fine stage plays latents."""
        return self.fine.heard(given) if self.fine and given.shape[-1] else given

    def seeds(self, prompts: list[str], seed: int) -> list[int]:
        return [(seed + i) % 2**63 for i in range(len(prompts))]

    @property
    def num_codebooks(self) -> int:
        """K, codebooks of what is generated."""
        return self.codec.num_codebooks if self.fine else self.lm.config.num_codebooks

    def stream(
        self,
        prompt: str,
        seed: int = 0,
        settings: Sampling | None = None,
        continue_from: str | Path | Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The codes [K] of one frame after another, without end."""
        for codes, _ in self.drawn([prompt], seed, settings, self.given(1, continue_from)):
            yield codes[0].cpu()

    def play(
        self,
        prompt: str,
        seed: int = 0,
        settings: Sampling | None = None,
        continue_from: str | Path | Tensor | None = None,
        seconds: float | None = None,
        on_frame: Callable[[int, int], None] | None = None,
    ) -> Iterator[Tensor]:
        """The sound [1, samples] piece by piece as it is drawn, for `seconds` or without end; the same as `generate`'s.

        on_frame: as in `generate`; without `seconds` the number in all is 0.

        Raises UserError as `generate` does, and for a codec that cannot decode in pieces (EnCodec).
        """
        count = 0 if seconds is None else self.frame_count(seconds)
        given = self.given(1, continue_from)
        new = self.drawn([prompt], seed, settings, given, count, on_frame)
        for piece in pieces(self.codec, chain(self.heard(given).unbind(2), (heard for _, heard in new))):
            yield piece[0].clamp(-1, 1).cpu()

    def frame_count(self, seconds: float) -> int:
        """Frames T that make up `seconds`, at least one. Raises UserError unless 0 < seconds < infinity."""
        if not 0 < seconds < float("inf"):
            raise UserError(f"seconds must be above 0, got {seconds:g}")
        return max(1, round(seconds * self.codec.frame_rate))

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder that `load` reads: the LM, and the codec in codec/; of two stages see `two_stage`."""
        if self.fine:
            from ostinato.generation.join import save_two_stage

            return save_two_stage(folder, self, dtype)
        inside = self.config["codec"] in INSIDE
        about = self.config | {"codec": "codec" if inside else self.config["codec"]}
        save_lm(folder, self.lm, about | {"sampling": dataclasses.asdict(self.sampling)}, dtype)
        if inside:
            self.codec.save_pretrained(Path(folder) / "codec")  # type: ignore[attr-defined]

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Upload as a model repository ("user/name"); returns its address."""
        import tempfile

        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder)
        return f"https://huggingface.co/{repository}"


def save_lm(
    folder: str | Path,
    lm: MusicLM,
    config: dict,
    dtype: torch.dtype = torch.float32,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Write config.json and model.safetensors. config: text, codec, codec_id, and, if known, sampling and training;
    weights: by default those of `lm`."""
    config = {"model_type": "ostinato", "lm": dataclasses.asdict(lm.config)} | config
    write_model_folder(folder, config, {name: t.to(dtype) for name, t in (weights or lm.state_dict()).items()})


def lm_config(folder: str | Path) -> tuple[LMConfig, dict]:
    """What config.json of a language model's folder says. Raises UserError if it is not one, or not whole."""
    config = read_config(folder)
    if config.get("model_type") == "ostinato-fine":
        raise UserError(f"{folder} is a fine stage, which goes with a language model: ostinato join LM FINE OUT")
    if config.get("model_type") != "ostinato":
        raise UserError(f"{folder} holds a model of type {config.get('model_type')!r}, not 'ostinato'")
    for key in ("lm", "text", "codec"):
        if key not in config:
            raise UserError(f"{folder}/config.json lacks {key!r}; the folder may be damaged, copy it again")
    return build(LMConfig, config["lm"], f"{folder}: lm"), config


def load_lm(folder: str | Path) -> tuple[MusicLM, dict]:
    """The language model of a folder and its config. Raises UserError if the folder is not a whole one."""
    sizes, config = lm_config(folder)
    lm = MusicLM(sizes)
    fill(lm, folder)
    config.pop("weights", None)  # which file was read; a copy of the model has one
    return lm.eval(), config


def resolve(name: str | Path | None) -> Path:
    """A model folder, a run's folder (its newest checkpoint), a hub id (downloaded), or one of `PACKS`; None: "pocket".

    Raises UserError when there is no such thing or the hub cannot be reached.
    """
    if name is None or (str(name) in PACKS and not Path(name).is_dir()):
        folder = PACKS[str(name or "pocket")]
        if not (folder / "config.json").is_file():
            raise UserError("this installation has no pocket pack; name a model folder or a hub id with --model")
        return folder
    folder = Path(name)
    if folder.is_dir():
        steps = sorted(p for p in folder.glob("step-*") if (p / "config.json").is_file())
        return folder if (folder / "config.json").is_file() or not steps else steps[-1]
    if folder.is_file():
        raise UserError(f"{name} is a file, not a model folder; for an authors' .ckpt run ostinato import-official")
    if str(name).count("/") != 1 or str(name).startswith((".", "/")):
        raise UserError(f"there is no model folder {name}; give a folder, a hub id as user/name, or {', '.join(PACKS)}")
    try:
        return Path(snapshot_download(str(name)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name} is no folder here and could not be had from the hub: {reason}") from error


def load(name: str | Path | None = None, device: str | torch.device = "cpu") -> Ostinato:
    """Load a model for generation: a folder, a hub id, or with no argument "pocket", which ships with Ostinato.

    Raises UserError if it cannot be found or read, or was trained on a codec other than the one it names.
    """
    folder = resolve(name)
    if read_config(folder).get("model_type") == TWO_STAGE:
        from ostinato.generation.join import load_two_stage

        return load_two_stage(folder, device)
    lm, config = load_lm(folder)
    inside = folder / config["codec"]
    codec = load_codec(str(inside) if inside.is_dir() else config["codec"], device)
    found = fingerprint(codec)
    if config.get("codec_id") and config["codec_id"] != found:
        raise UserError(
            f"{folder} was trained on codes of codec {config['codec_id']}, but {config['codec']} is {found}: "
            "its codes mean other sounds; put the codec it was trained on in its codec/ folder"
        )
    sampling = build(Sampling, config.get("sampling", {}), f"{folder}: sampling")
    return Ostinato(lm.to(device), load_text_encoder(config["text"], str(device)), codec, config, sampling)


def describe(folder: Path) -> dict[str, str]:
    """What a checkpoint is, for `ostinato info`: rows of name and value. Raises UserError if it is not a model."""
    config = read_config(folder)
    if config.get("model_type") == "pocket":
        codec = load_codec(str(folder))
        count = sum(p.numel() for p in codec.parameters())  # type: ignore[attr-defined]
        rows = {"type": "pocket codec", "parameters": f"{count / 1e6:.1f} M", "codec": codec_line(config["codec"])}
        return rows | {"codec id": fingerprint(codec)} | training_rows(folder)
    if config.get("model_type") in (TWO_STAGE, "ostinato-fine"):
        from ostinato.generation.join import describe_stages

        return describe_stages(folder, config)
    lm, config = load_lm(folder)
    c = lm.config
    rows = {
        "type": "language model",
        "variant": f"{c.variant} ({', '.join(lm.variant.sublayers)}; text by {lm.variant.text})",
        "sizes": f"width {c.width}, {c.blocks} blocks, state {c.state}, feed-forward {c.feed_forward}",
        "parameters": f"{sum(p.numel() for p in lm.parameters()) / 1e6:.1f} M",
        "codebooks": f"{c.num_codebooks} of {c.codebook_size}, pattern {c.pattern}",
        "codec": f"{config['codec']} ({config.get('codec_id') or 'unknown id'})",
        "text encoder": f"{config['text']} ({c.text_width} wide)",
    }
    if (folder / "codec" / "config.json").is_file():
        inner = read_config(folder / "codec")
        rows["codec"] = f"{codec_line(inner['codec']) if 'codec' in inner else inner['model_type']}, in codec/"
    return rows | training_rows(folder)


def codec_line(codec: dict) -> str:
    rate = codec["sample_rate"] / codec["hop"]
    return f"pocket, {codec['sample_rate']} Hz, {rate:g} frames a second, {codec['num_codebooks']} codebooks"


def training(folder: Path) -> dict:
    """The training so far: training.json of a checkpoint, or `training` in config.json; empty where neither tells."""
    path = folder / "training.json"
    try:
        return json.loads(path.read_text()) if path.is_file() else read_config(folder).get("training", {})
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); copy the checkpoint again") from error


def training_rows(folder: Path) -> dict[str, str]:
    """The row of `training`, for `ostinato info`."""
    so_far = training(folder)
    if "step" not in so_far:
        return {}
    seed = f", seed {so_far['seed']}" if "seed" in so_far else ""  # an imported checkpoint does not tell it
    return {"trained": f"{so_far['step']} steps{seed}"}


def copy_codec(source: str, folder: Path) -> str:
    """Put a codec that is a local folder into `folder`/codec; returns what config.json should call it: a folder may
    move or go, a short name or hub id stays."""
    inside = source if Path(source).is_dir() else SHORT_NAMES.get(source, source)
    if not Path(inside).is_dir():
        return source
    (folder / "codec").mkdir(parents=True, exist_ok=True)
    codec = resolve(inside)
    for path in (codec / "config.json", weights_file(codec)):
        shutil.copyfile(path, folder / "codec" / path.name)
    return "codec"
