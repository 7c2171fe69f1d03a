"""From a sentence to a waveform: text encoder, language model, fine stage and codec held together, and `load`."""

import dataclasses
import hashlib
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ostinato.codecs.base import Codec, fingerprint, sound
from ostinato.codecs.load import load_codec
from ostinato.generation.fine_stage import FineStage, load_fine, save_fine
from ostinato.generation.folders import INSIDE, TWO_STAGE, check_fit, load_lm, parts, resolve, save_lm, within
from ostinato.generation.keeping import kept_frames
from ostinato.generation.precision import cast, pick_dtype
from ostinato.generation.sampling import Generation, Sampling, begin, generate_frames
from ostinato.generation.settings import FineSampling
from ostinato.generation.streaming import Stream
from ostinato.models.lm import MusicLM
from ostinato.models.text_encoder import TextEncoder, load_text_encoder
from ostinato.utils.audio import data_url, read_tail, write_audio
from ostinato.utils.errors import UserError
from ostinato.utils.files import digest, read_config, write_config
from ostinato.utils.schema import build

LONGEST = 3600.0  # s of one clip, which is held in memory as a whole; a stream has no end
HEARD = 60.0  # s of a file to continue from: twice the longest clip that the papers' models were trained on
SHOWN = 600.0  # s of the longest clip that a notebook plays: its page holds all of it
Texts = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]  # embeddings and mask: of the prompts, of the empty text


@dataclass(repr=False)
class Clip:
    """What was generated: `audio` [1, samples] in [-1, 1] at `sample_rate` Hz, from `codes` [K, T], or from the latents
    that were quantized to them (`FineSampling.snapped`)."""

    audio: Tensor
    sample_rate: int
    codes: Tensor
    prompt: str
    begins: int = 0  # frames of `codes` that it was to go on from

    @property
    def seconds(self) -> float:
        return self.audio.shape[-1] / self.sample_rate

    def __repr__(self) -> str:
        return f"Clip({self.prompt[:60]!r}, {self.seconds:g} s at {self.sample_rate} Hz)"

    def _repr_html_(self) -> str:
        """What a notebook shows of it: a player."""
        words = html.escape(repr(self))
        if self.seconds > SHOWN:
            return f"{words}: too long for a page, save it"
        return f'<audio controls src="{data_url(self.audio, self.sample_rate)}"></audio><br>{words}'

    def save(self, path: str | Path, tags: dict[str, str] | None = None) -> None:
        """Write WAV, FLAC, OGG or MP3 by the suffix, with `tags`, by default the prompt. Raises UserError for another
        suffix or an unwritable folder."""
        tags = tags or {"title": self.prompt, "comment": self.prompt}
        write_audio(path, self.audio, self.sample_rate, tags)


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
    frames: Callable[[MusicLM, Generation], Iterator[Tensor]] = generate_frames  # `Rows.frames` for several listeners

    def generate(
        self,
        prompt: str | list[str],
        seconds: float = 10.0,
        seed: int | list[int] = 0,
        settings: Sampling | None = None,
        continue_from: str | Path | Tensor | None = None,
        on_frame: Callable[[int, int], None] | None = None,
        state: str | Path | None = None,
    ) -> "Clip | list[Clip]":
        """One prompt -> one Clip; a list -> a list, made as one batch (clip i of a list has seed + i, or its own).

        continue_from: an audio file, or codes [K, T0] (those of a Clip) or [1, K, T0]; the clips begin with what these
            decode to and go on for `seconds`.
        settings: default, the model's own `sampling`.
        on_frame: called with the frames done and their number in all, after each.
        state: a file to keep the generation in while it is made. The same call goes on from what is there, and one for
            more `seconds` goes further, to the same clip as without.
        Raises UserError for an empty prompt list, seconds <= 0, or audio that cannot be read.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if seconds > LONGEST:
            raise UserError(f"a clip has at most {LONGEST:g} seconds, got {seconds:g}: stream more of it (--output -)")
        count = self.frame_count(seconds)
        before = self.prompt_codes(len(prompts), continue_from)
        stretches = self.stretches(prompts, seed, settings, before, count, on_frame, state=state)
        new_codes, new_inputs = zip(*stretches, strict=True)
        codes = torch.cat([before, *new_codes], 2)
        inputs = torch.cat([*([self.decoder_inputs(before)] if before.shape[2] else []), *new_inputs], 2)
        clips = [
            Clip(
                sound(self.codec, row[None])[0].clamp(-1, 1).cpu(),
                self.codec.sample_rate,
                own.cpu(),
                text,
                before.shape[-1],
            )
            for row, own, text in zip(inputs, codes, prompts, strict=True)
        ]
        return clips[0] if isinstance(prompt, str) else clips

    def begin(
        self,
        prompts: list[str],
        seed: int | list[int] = 0,
        settings: Sampling | None = None,
        continue_from: str | Path | Tensor | None = None,
        texts: Texts | None = None,
    ) -> Generation:
        """The state before the first new frame, for `generate_frames`. texts: what `read` gives, if it was asked
        before. Raises UserError as `generate` does."""
        settings = settings or self.sampling
        text, empty = texts or self.read(prompts, settings)
        before = self.prompt_codes(len(prompts), continue_from)[:, : self.lm.config.num_codebooks]
        return begin(self.lm, text, empty, settings, self.seeds(prompts, seed), before)

    def read(self, prompts: list[str], settings: Sampling) -> Texts:
        """The prompts, and the text that guidance leads away from. Raises UserError where there is no prompt."""
        if not prompts:
            raise UserError("no prompt given; write a sentence that says what to play")
        return self.text(prompts), self.text([settings.negative])

    def prompt_codes(self, rows: int, continue_from: str | Path | Tensor | None) -> Tensor:
        """Codes [rows, K, T0] to continue from, T0 = 0 for none. Raises UserError as `generate` does."""
        K, size = self.num_codebooks, self.codec.codebook_size
        if continue_from is None:
            return torch.zeros(rows, K, 0, dtype=torch.long, device=self.device)
        if isinstance(continue_from, Tensor):
            codes = continue_from[None] if continue_from.ndim == 2 else continue_from
        else:
            audio = read_tail(continue_from, self.codec.sample_rate, HEARD)
            codes = self.codec.encode(audio[None].to(self.device))[:, :K]
        if codes.ndim != 3 or codes.shape[1] != K or len(codes) not in (1, rows):
            raise UserError(f"codes to continue from should be [{K}, frames], got {list(codes.shape)}")
        if codes.dtype.is_floating_point:
            raise UserError(f"codes to continue from should be whole numbers, got {codes.dtype}")
        if codes.numel() and (codes.min() < 0 or codes.max() >= size):
            raise UserError(f"codes to continue from should be 0 to {size - 1}, got {codes.min()} to {codes.max()}")
        return codes.to(self.device).expand(rows, -1, -1)

    def stretches(
        self,
        prompts: list[str],
        seed: int | list[int],
        settings: Sampling | None,
        prompt_codes: Tensor,
        count: int = 0,
        on_frame: Callable[[int, int], None] | None = None,
        fine: FineSampling | None = None,
        state: str | Path | None = None,
        memory: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The frames after `prompt_codes`, `count` of them or without end, in stretches: codes [b, K, n], and what the
        codec decodes of them (see `decoder_inputs`). Of one stage n is 1; a fine stage gives a window at a time.
        memory: how many frames of `prompt_codes`, the last, the language model reads; 0: all."""

        settings = settings or self.sampling
        texts = self.read(prompts, settings)

        def start() -> Generation:
            return self.begin(prompts, seed, settings, prompt_codes[..., -memory:], texts)

        if state is None:
            frames = self.lm_frames(start(), count, on_frame)
        else:
            about = self.depends_on(prompts, seed, settings, prompt_codes)
            frames = kept_frames(Path(state), self.lm, start, about, count, on_frame)
        if self.fine is None:
            return ((codes.unsqueeze(-1), codes.unsqueeze(-1)) for codes in frames)
        if own := self.fine.text:
            texts = own(prompts), own([settings.negative])
        return self.fine.refine(frames, *texts, self.seeds(prompts, seed), fine, prompt_codes)

    def lm_frames(
        self, generation: Generation, count: int, on_frame: Callable[[int, int], None] | None
    ) -> Iterator[Tensor]:
        """The language model's codes [b, K of its own], frame by frame, `count` of them, 0: without end."""
        for done, codes in enumerate(islice(self.frames(self.lm, generation), count or None), 1):
            if on_frame:
                on_frame(done, count)
            yield codes

    def depends_on(self, prompts: list[str], seed: int | list[int], settings: Sampling | None, before: Tensor) -> dict:
        """All that the language model's frames follow from, as JSON has it."""
        return {
            "prompts": prompts,
            "seeds": self.seeds(prompts, seed),
            "settings": dataclasses.asdict(settings or self.sampling),
            "before": hashlib.sha256(before.cpu().numpy().tobytes()).hexdigest() if before.numel() else "",
            "model": digest(self.lm.state_dict())[:16],
        }

    def decoder_inputs(self, codes: Tensor) -> Tensor:
        """Codes [b, K, T] -> them, or their latents where a fine stage plays latents."""
        return self.fine.decoder_inputs(codes) if self.fine else codes

    def seeds(self, prompts: list[str], seed: int | list[int]) -> list[int]:
        if isinstance(seed, list):
            return seed
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
        for codes, _ in self.stretches([prompt], seed, settings, self.prompt_codes(1, continue_from)):
            yield from codes[0].cpu().unbind(-1)

    def play(
        self,
        prompt: str,
        seed: int = 0,
        settings: Sampling | None = None,
        continue_from: str | Path | Tensor | None = None,
        seconds: float | None = None,
        on_frame: Callable[[int, int], None] | None = None,
        fine: FineSampling | None = None,
    ) -> Stream:
        """The sound piece by piece as it is made, for `seconds` or without end; the same as `generate`'s. The `Stream`
        can be steered and forked while it plays.

        on_frame: as in `generate`; without `seconds` the number in all is 0.
        fine: settings of the fine stage, by default its own; `streaming.early` gives sound earlier, other sound.

        Raises UserError as `generate` does, and for a codec that cannot decode in pieces (EnCodec).
        """
        count = 0 if seconds is None else self.frame_count(seconds)
        return Stream(self, prompt, seed, settings, self.prompt_codes(1, continue_from), count, on_frame, fine)

    def frame_count(self, seconds: float) -> int:
        """Frames T that make up `seconds`, at least one. Raises UserError unless 0 < seconds < infinity."""
        if not 0 < seconds < float("inf"):
            raise UserError(f"seconds must be a finite number above 0, got {seconds:g}")
        return max(1, round(seconds * self.codec.frame_rate))

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder that `load` reads: the language model with the codec in codec/, or both stages in lm/ and
        fine/, the codec beside them."""
        folder, fine = Path(folder), self.fine
        inside = self.config["codec"] in INSIDE
        codec = "codec" if inside else self.config["codec"]
        config = self.config | {"sampling": dataclasses.asdict(self.sampling)}
        if fine is None:
            save_lm(folder, self.lm, config | {"codec": codec}, dtype)
        else:
            save_lm(folder / "lm", self.lm, config | {"codec": within(codec)}, dtype)
            config = fine.config | {"codec": within(codec), "sampling": dataclasses.asdict(fine.sampling)}
            weights = {key: t.to(dtype) for key, t in fine.denoiser.state_dict().items()}
            save_fine(folder / "fine", fine.sizes, fine.scale, config, weights)
            write_config(folder, {"model_type": TWO_STAGE, "lm": "lm", "fine": "fine", "codec": codec})
        if inside:
            self.codec.save_pretrained(folder / "codec")  # type: ignore[attr-defined]

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


def load(
    name: str | Path | None = None, device: str | torch.device = "cpu", dtype: str | torch.dtype = "float32"
) -> Ostinato:
    """Load a model for generation: a folder, a hub id, or with no argument "pocket", which ships with Ostinato.

    dtype: of the weights of language model and denoiser: float32, tf32 (see `precision.pick_dtype`), bfloat16 or
        float16. The text encoder, the codec, the recurrent state and sampling stay float32.
    Raises UserError if it cannot be found or read, was trained on a codec other than the one it names, or has two
    stages that do not fit together, and for a dtype that is none of these.
    """
    chosen = pick_dtype(dtype, device)
    model = load_stages(name, device)
    if chosen != torch.float32:
        for stage in (model.lm, *([model.fine.denoiser] if model.fine else [])):
            cast(stage, chosen)
    return model


def load_stages(name: str | Path | None, device: str | torch.device) -> Ostinato:
    """`load`, in float32."""
    folder = resolve(name)
    config = read_config(folder)
    if config.get("model_type") != TWO_STAGE:
        return load_one_stage(folder, device)
    first, second = parts(folder, config)
    model = load_one_stage(first, device)
    fine = load_fine(second, model.codec, device)
    check_fit(model.lm.config, model.config | {"codec_id": fingerprint(model.codec)}, fine.config)
    if fine.config["text"] != model.config["text"]:
        fine.text = load_text_encoder(fine.config["text"], str(device))
    model.fine = fine
    return model


def load_one_stage(folder: Path, device: str | torch.device) -> Ostinato:
    """The language model of a folder, with its text encoder and codec. Errors: `load`."""
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
