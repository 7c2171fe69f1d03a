"""A model becomes a folder of graphs: text, read, step, denoise and decode in ONNX, and ostinato.json, which says how
they join.

ostinato.json, by section:
    text    max_tokens; tokenizer.json is beside it
    lm      codebooks, codebook_size; stride and offset of the pattern (`models.patterns`); reads: "prefix" (a vector of
            the text at each step before the frames) or "cross" (keys and values, at every step); state: shape and type
            of each tensor before the first step, "rows" being 2 with guidance, else 1
    sampling, and fine.sampling   the settings that the model plays best with
    fine    width F; window, overlap and first in frames; own_text: it has a text encoder of its own, fine-text.onnx;
            steps: the sampler's, as numbers (`generation.schedule`)
    codec   sample_rate, hop, codebooks; context and lookahead: frames before and after one that its sound depends on,
            null for all
"""

import dataclasses
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ostinato
from ostinato.codecs.base import Codec
from ostinato.export.graphs import DecodeCodes, DecodeLatents, Denoise, Read, Step, Text
from ostinato.export.trace import trace
from ostinato.generation.fine_stage import FineStage
from ostinato.generation.pipeline import Ostinato
from ostinato.generation.schedule import schedule
from ostinato.models.lm import MusicLM
from ostinato.models.text_encoder import TextEncoder, Tokens
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

ABOUT = "ostinato.json"
ROWS = 2  # of the example that is traced
TOKENS = 5


def export_model(
    model: Ostinato, name: str, out: str | Path, on_graph: Callable[[str, int, int], None] = lambda *_: None
) -> Path:
    """Write `model`, called `name`, to the folder `out`; ostinato.json comes last: what was interrupted is no model.

    on_graph: called before each graph with its name, those done and all. Raises UserError where `out` holds anything
    but an earlier export, or a part cannot be exported.
    """
    check_packages()
    folder = empty_folder(out)
    fine, text = model.fine, tokens_of(model.text)
    if model.lm.variant.text == "prefix" and any(layer.kind == "self-attention" for layer in model.lm.layers):
        raise UserError(f"{model.lm.config.variant} attends to its prefix, which is not exported yet: it needs PyTorch")
    parts: dict[str, Callable[[Path], None]] = {
        "text": lambda path: write_text(text, path),
        "read": lambda path: write_read(model.lm, path),
        "step": lambda path: write_step(model.lm, path),
    }
    if fine is None:
        parts["decode"] = lambda path: write_decode_codes(model.codec, model.lm.config.num_codebooks, path)
    else:
        stage, own = fine, None if fine.text is None else tokens_of(fine.text)
        if own:
            parts["fine-text"] = lambda path: write_text(own, path)
        parts["denoise"] = lambda path: write_denoise(stage, path)
        parts["decode"] = lambda path: write_decode_latents(stage, path)
    for done, (part, write) in enumerate(parts.items()):
        on_graph(part, done, len(parts))
        write(folder / f"{part}.onnx")
    about = {"model_type": "ostinato-onnx", "version": ostinato.__version__, "model": name} | describe(model)
    write_atomic(folder / ABOUT, lambda temporary: temporary.write_text(json.dumps(about, indent=1) + "\n"))
    return folder


def check_packages() -> None:
    """Raise UserError unless what writes ONNX is installed."""
    if find_spec("onnx") is None:
        raise UserError("writing ONNX needs the package onnx: run pip install 'ostinato[onnx]'")


def earlier_export(out: str | Path) -> list[Path]:
    """The files that an earlier export left in `out`. Raises UserError where it is or holds anything else."""
    folder = Path(out)
    try:
        found = sorted(folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): name another folder") from error
    strangers = [path.name for path in found if path.suffix not in (".onnx", ".tmp") and path.name not in WRITTEN]
    if strangers:
        raise UserError(f"{folder} holds more than an exported model ({strangers[0]}): name another folder")
    return found


def empty_folder(out: str | Path) -> Path:
    """`out`, made or emptied of an earlier export. Raises: as `earlier_export`."""
    folder = Path(out)
    try:
        for path in earlier_export(out):
            path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): name another folder") from error
    return folder


WRITTEN = (ABOUT, "tokenizer.json", "fine-tokenizer.json")


def describe(model: Ostinato) -> dict[str, Any]:
    """What ostinato.json says, see the top of this file."""
    lm, codec, fine = model.lm, model.codec, model.fine
    state = {
        name: {"shape": ["rows", *t.shape[1:]], "type": str(t.dtype).removeprefix("torch.")}
        for name, t in Step(lm).state(1).items()
    }
    about: dict[str, Any] = {
        "text": {"max_tokens": tokens_of(model.text).max_tokens},
        "lm": {
            "codebooks": lm.config.num_codebooks,
            "codebook_size": lm.config.codebook_size,
            "stride": lm.pattern.stride,
            "offset": lm.pattern.offset,
            "reads": lm.variant.text,
            "state": state,
        },
        "sampling": dataclasses.asdict(model.sampling),
        "codec": {
            "sample_rate": codec.sample_rate,
            "hop": codec.hop,
            "codebooks": model.num_codebooks,
            "context": codec.context,
            "lookahead": codec.lookahead,
        },
    }
    if fine is not None:
        window, overlap = fine.frames(fine.sampling)
        about["fine"] = {
            "width": fine.sizes.fine,
            "window": window,
            "overlap": overlap,
            "first": round(fine.sampling.first * codec.frame_rate) or window,
            "own_text": {"max_tokens": tokens_of(fine.text).max_tokens} if fine.text else None,
            "sampling": dataclasses.asdict(fine.sampling),
            "steps": schedule(fine.sampling.sampler, fine.sampling.steps),
        }
    return about


def tokens_of(encoder: TextEncoder) -> Tokens:
    if not isinstance(encoder, Tokens):
        raise UserError(f"the text encoder {encoder.name} has no tokens, and only minilm and T5 are exported")
    return encoder


def tokenizer_of(encoder: Tokens) -> Any:
    """Its tokenizer, of the package of that name: transformers' own holds one."""
    return getattr(encoder.tokenizer, "backend_tokenizer", encoder.tokenizer)


def write_text(encoder: Tokens, path: Path) -> None:
    """The text encoder, and its tokenizer beside it."""
    tokenizer = tokenizer_of(encoder)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    beside = path.with_name(path.stem.replace("text", "tokenizer") + ".json")
    write_atomic(beside, lambda temporary: temporary.write_text(tokenizer.to_str(), encoding="utf-8"))
    axes = {"ids": {1: "tokens"}, "embeddings": {1: "tokens"}}
    trace(Text(encoder), {"ids": torch.ones(1, TOKENS, dtype=torch.long)}, ["embeddings"], axes, path)


def write_read(lm: MusicLM, path: Path) -> None:
    module = Read(lm)
    names, at = module.names(), 1 if lm.variant.text == "prefix" else 2
    axes = {"text": {1: "tokens"}} | {name: {at: "tokens"} for name in names}
    trace(module, {"text": torch.randn(1, TOKENS, lm.config.text_width)}, names, axes, path)


def write_step(lm: MusicLM, path: Path) -> None:
    module, c = Step(lm), lm.config
    state, text = module.state(ROWS), module.text(ROWS, TOKENS)
    inputs = {
        "codes": torch.zeros(1, c.num_codebooks, dtype=torch.long),
        "noise": torch.ones(1, c.num_codebooks, c.codebook_size),
        "guidance": torch.tensor(3.0),
        "temperature": torch.tensor(1.0),
        "top_k": torch.tensor(0),
        "top_p": torch.tensor(1.0),
    }
    outputs: dict[str, dict[int, str]] = {"next_codes": {}} | {f"next_{name}": growing(name) for name in state}
    axes = {name: growing(name) for name in text | state} | outputs
    trace(module, inputs | text | state, list(outputs), axes, path, named=True)


def growing(name: str) -> dict[int, str]:
    """The axes of any length of an input of `Step`."""
    kind = name.split(".")[0]
    lengths = {"text_mask": {1: "tokens"}, "text_k": {2: "tokens"}, "text_v": {2: "tokens"}}
    return {0: "rows"} | (lengths | {"k": {2: "past"}, "v": {2: "past"}}).get(kind, {})


def write_denoise(stage: FineStage, path: Path) -> None:
    T, rows = stage.frames(stage.sampling)[0], 1 if stage.sampling.guidance == 1 else 2
    latents = torch.randn(1, stage.sizes.fine, T)
    inputs: dict[str, Tensor] = {
        "x": latents,
        "codes": torch.zeros(1, 1, T, dtype=torch.long),
        "real": torch.ones(1, T, dtype=torch.bool),
        "text": torch.randn(rows, TOKENS, stage.sizes.text_width),
        "text_mask": torch.ones(rows, TOKENS, dtype=torch.bool),
        "before": latents,
        "noise": latents,
        "step": torch.full((7,), 0.5),
        "guidance": torch.tensor(1.0),
        "temperature": torch.tensor(1.0),
    }
    axes = {"text": {1: "tokens"}, "text_mask": {1: "tokens"}}
    trace(Denoise(stage), inputs, ["next_x", "clean"], axes, path, named=True)


def write_decode_codes(codec: Codec, K: int, path: Path) -> None:
    codes = torch.zeros(1, K, 2 * TOKENS, dtype=torch.long)
    trace(DecodeCodes(codec), {"codes": codes}, ["audio"], {"codes": {2: "frames"}, "audio": {1: "samples"}}, path)


def write_decode_latents(stage: FineStage, path: Path) -> None:
    n = 2 * TOKENS
    inputs = {"coarse": torch.zeros(1, 1, n, dtype=torch.long), "fine": torch.randn(1, stage.sizes.fine, n)}
    axes = {name: {2: "frames"} for name in ("coarse", "fine", "codes")} | {"audio": {1: "samples"}}
    trace(DecodeLatents(stage), inputs, ["audio", "codes"], axes, path)
