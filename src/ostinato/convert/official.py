"""Checkpoints of the paper's authors (a Lightning .ckpt of github.com/Lonian6/SSM-TTM) become model folders.

Their model is `MusicLM` with other conventions, which become settings of its config: sinusoidal positions in
AudioCraft's layout over text and frames, a layer norm after the projection of the text, no norm at the end. In their
cross-attention models the text has positions too and is read through the norm of each cross-attention, whose weight is
multiplied into `kv_proj` here, and attention's output projection has a bias. Sequences are as ours: a step of special
tokens first, then the codes, codebook k delayed by k. The variant follows from names, sizes from shapes; of their
config.json only `num_heads` and `drop_p` are needed, and the rest is held against the weights.

Where the imported model differs from their code at sampling, on purpose:
- They pad each prompt to 60 text tokens or more, and the padding stands in the prefix (or, as zeros, among the keys);
  here a prompt is its own tokens, as their longest caption of each training batch was. Logits are the same for a text
  without padding.
- Their attention drops out at sampling too, and they feed sampled codes where a delayed codebook has not begun, and may
  sample the special token.
"""

import json
import os
import pickle
import re
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ostinato.generation.folders import save_lm
from ostinato.models.lm import VARIANTS, LMConfig, MusicLM
from ostinato.utils.errors import UserError
from ostinato.utils.text_files import read_text

THEIRS = {  # our variants -> the sub-layers of one of their blocks: how their names begin, and the kind
    "prefix-mamba": {"": "mamba"},  # two of their blocks make one of ours
    "prefix-simba": {"mamba.": "mamba", "ff.": "feed-forward"},
    "cross-simba": {"mamba.": "mamba", "cross_atten.": "cross-attention", "ff.": "feed-forward"},
    "cross-transformer": {"self_atten.": "self-attention", "cross_atten.": "cross-attention", "ff.": "feed-forward"},
}
SSM = ("in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D", "norm.weight", "out_proj.weight")
MIXERS = {  # of each kind of sub-layer: their name -> our name, or one that `join` replaces
    "mamba": {f"mamba.{name}": name for name in SSM},
    "self-attention": {
        "self_atten.to_q.weight": "to_q",
        "self_atten.to_kv.weight": "to_kv",
        "self_atten.attention.to_out.weight": "out_proj.weight",
        "self_atten.attention.to_out.bias": "out_proj.bias",
    },
    "cross-attention": {
        "cross_atten.to_q.weight": "q_proj.weight",
        "cross_atten.to_kv.weight": "to_kv",
        "cross_atten.attention.to_out.weight": "out_proj.weight",
        "cross_atten.attention.to_out.bias": "out_proj.bias",
    },
    "feed-forward": {
        "feed_forward.0.weight": "up.weight",
        "feed_forward.0.bias": "up.bias",
        "feed_forward.3.weight": "down.weight",
        "feed_forward.3.bias": "down.bias",
    },
}


def import_checkpoint(checkpoint: Path, config: Path, out: Path) -> Path:
    """Read their checkpoint and config.json, write the model folder `out`, return it.

    Raises UserError, with nothing written, if `out` is not free, a file cannot be read or is not what it should be, the
    weights are of a model that has no counterpart here, or the two files contradict each other.
    """
    check_free(out)
    if not checkpoint.is_file():
        raise UserError(f"there is no checkpoint file {checkpoint}; give the path of a .ckpt")
    settings = read_settings(config)
    state, step = read_checkpoint(checkpoint)
    lm = convert(state, settings, checkpoint, config)
    training = {"step": step, "imported_from": checkpoint.name}
    about = {"text": "google/flan-t5-base", "codec": "descript/dac_44khz", "codec_id": "", "training": training}
    write_whole(out, lm, about)
    return out


def check_free(out: Path) -> None:
    """Raises UserError if `out` is there and is not an empty folder."""
    try:
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} already holds files; name a new folder to write")
        if out.exists() and not out.is_dir():
            raise UserError(f"{out} is a file; name a new folder to write")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another folder") from error


def read_settings(path: Path) -> dict:
    """The `model` section of their config.json."""
    try:
        config = json.loads(read_text(path))
    except OSError as error:
        raise UserError(f"config {path} cannot be read ({error.strerror}); give the authors' config.json") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"config {path} is not JSON ({error}); give the authors' config.json") from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"config {path} has no section 'model'; give the authors' config.json")
    return config["model"]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], int]:
    """The state dict and global step of a Lightning checkpoint. Nothing in the file is run."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {path}; give the path of a .ckpt")
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles: they load, or are refused below
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what a damaged pickle raises has no bounds
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise UserError(
                f"{path} holds code ({code[1]}), and none was run; if you trust it, save its state_dict and "
                "global_step alone with torch.save and import that"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
        raise UserError(f"{path} is not a readable checkpoint ({reason}); it may be damaged, copy it again") from error
    state = loaded.get("state_dict") if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items()):
        raise UserError(f"{path} is not a Lightning checkpoint: it has no state_dict; give the authors' .ckpt")
    if type(step := loaded.get("global_step")) is not int:
        raise UserError(f"{path} is not a Lightning checkpoint: its global_step is {step!r}; give the authors' .ckpt")
    return state, step


def convert(state: dict[str, Tensor], settings: dict, checkpoint: Path, config: Path) -> MusicLM:
    """Their state dict and settings -> our model; the paths are for what is said of them."""
    theirs = {name: t for name, t in state.items() if not name.startswith("text_encoder.")}  # Flan-T5 Base, frozen
    found = re.findall(r"^music_model\.backbone\.(\d+)\.(\w+)", "\n".join(theirs), re.M)
    blocks = len({block for block, _ in found})
    variant = recognise({part for block, part in found if block == "0"})
    names = our_names(variant, blocks, sum(name.startswith("music_model.embedding.") for name in theirs))
    for name in theirs:
        if name not in names:
            raise UserError(
                f"{checkpoint} cannot be imported: it has the unknown weight {name!r}; known are the authors' "
                f"{', '.join(THEIRS)}, with all blocks alike"
            )
    for name in names:
        if name not in theirs:
            raise UserError(f"{checkpoint} lacks the weight {name!r} of a {variant}; it may be damaged, copy it again")
    if variant == "prefix-mamba" and blocks % 2:
        raise UserError(f"{checkpoint} has {blocks} Mamba layers, and a {variant} here has two in each block")
    try:
        weights = join({ours: theirs[name].float() for name, ours in names.items()})
        sizes = read_sizes(weights, variant)
        compare(settings, sizes, variant, blocks, config)
        cross = VARIANTS[variant].text == "cross"
        lm_config = LMConfig(
            variant=variant,
            pattern="single" if sizes["num_codebooks"] == 1 else "delay",
            blocks=blocks // 2 if variant == "prefix-mamba" else blocks,
            heads=settings.get("num_heads", 8) if cross else 8,  # the default is theirs
            dropout=settings.get("drop_p", 0.3),
            positions="audiocraft",
            condition_norm=True,
            final_norm=False,
            text_positions=cross,
            attention_bias=cross,
            **sizes,
        )
        with torch.device("meta"):  # no weights of its own: those of the checkpoint take their place
            lm = MusicLM(lm_config)
        lm.load_state_dict(weights, assign=True)
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"the weights in {checkpoint} have shapes that do not go together ({reason})") from error
    return lm


def recognise(parts: set[str]) -> str:
    """Names of the parts of one of their blocks -> our variant. That of an unknown block is settled by its weights."""
    if "cross_atten" in parts:
        return "cross-transformer" if "self_atten" in parts else "cross-simba"
    return "prefix-mamba" if parts == {"norm", "mamba"} else "prefix-simba"


def our_names(variant: str, blocks: int, K: int) -> dict[str, str]:
    """Their name -> our name (see `MIXERS`) of each weight of a model with `blocks` of their blocks."""
    same = ["condition_linear.weight", "condition_linear.bias", "condition_norm.weight", "condition_norm.bias"]
    same += [f"{table}.{k}.weight" for table in ("embedding", "lm_head") for k in range(K)]
    names = {name: name for name in same}
    layer = 0
    for block in range(blocks):
        for part, kind in THEIRS[variant].items():
            there, here = f"backbone.{block}.{part}", f"layers.{layer}."
            names[f"{there}norm.weight"] = f"{here}norm.weight"
            names |= {there + name: f"{here}mixer.{ours}" for name, ours in MIXERS[kind].items()}
            layer += 1
    return {f"music_model.{name}": ours for name, ours in names.items()}


def join(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our one projection in the place of their to_q [d, d] and to_kv [2d, d], keys first."""
    for name in [name for name in weights if name.endswith(".to_kv")]:
        mixer = name.removesuffix("to_kv")
        kv, q = weights.pop(name), weights.pop(f"{mixer}to_q", None)
        if q is not None:
            weights[f"{mixer}in_proj.weight"] = torch.cat([q, kv])
        else:  # cross-attention: they norm the text with the norm of the frames, its weight goes into the projection
            weights[f"{mixer}kv_proj.weight"] = kv * weights[f"{mixer.removesuffix('mixer.')}norm.weight"]
    return weights


def read_sizes(weights: dict[str, Tensor], variant: str) -> dict[str, Any]:
    """Fields of LMConfig, from the shapes of the weights."""
    V, width = weights["embedding.0.weight"].shape
    sizes: dict[str, Any] = {
        "num_codebooks": sum(name.startswith("embedding.") for name in weights),
        "codebook_size": V - 1,
        "width": width,
        "text_width": weights["condition_linear.weight"].shape[1],
    }
    kinds = VARIANTS[variant].sublayers
    if "mamba" in kinds:
        mixer = f"layers.{kinds.index('mamba')}.mixer."
        inner = weights[f"{mixer}out_proj.weight"].shape[1]
        channels, _, sizes["conv"] = weights[f"{mixer}conv1d.weight"].shape
        sizes["state"] = (channels - inner) // 2  # x, B and C
        sizes["expand"] = inner // width
        sizes["head_width"] = inner // weights[f"{mixer}dt_bias"].shape[0]
    if "feed-forward" in kinds:
        sizes["feed_forward"] = weights[f"layers.{kinds.index('feed-forward')}.mixer.up.weight"].shape[0]
    return sizes


def compare(settings: dict, sizes: dict[str, Any], variant: str, blocks: int, config: Path) -> None:
    """Raises UserError if their settings contradict their weights, or are not what a setting can be."""
    weights_say = {
        "layers": blocks,
        "codec_layer": sizes["num_codebooks"],
        "vocab_size": sizes["codebook_size"] + 1,
        "d_model": sizes["width"],
        "is_incontext": VARIANTS[variant].text == "prefix",
        "is_pure_mamba": variant == "prefix-mamba",
    }
    if "state" in sizes:
        weights_say["d_state"] = sizes["state"]
    for key, value in weights_say.items():
        if settings.get(key, value) != value:
            raise UserError(
                f"{config} says {key} {settings[key]!r}, but the weights say {value!r}; "
                "give the config.json that was saved with this checkpoint"
            )
    heads, dropout = settings.get("num_heads", 8), settings.get("drop_p", 0.3)
    cross = VARIANTS[variant].text == "cross"
    if cross and (type(heads) is not int or heads < 1 or sizes["width"] % heads):
        raise UserError(f"{config}: num_heads should divide the width {sizes['width']}, got {heads!r}")
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise UserError(f"{config}: drop_p should be at least 0 and below 1, got {dropout!r}")


def write_whole(out: Path, lm: MusicLM, about: dict) -> None:
    """Write the model folder beside `out` and move it there, so that `out` is whole or not at all."""
    whole = out.resolve()
    partial = whole.with_name(f".{whole.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir(parents=True)
        save_lm(partial, lm, about)
        os.replace(partial, whole)
    except (OSError, UserError) as error:
        reason = error.__cause__ or error
        raise UserError(f"{out} cannot be written ({reason}); name a folder on a disk with room") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
