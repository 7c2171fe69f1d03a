"""What a model folder holds, and how a take was made, in rows of name and value: `ostinato info`."""

from dataclasses import asdict
from pathlib import Path

import torch

from ostinato.codecs.base import fingerprint
from ostinato.codecs.load import load_codec
from ostinato.generation.fine_stage import fine_folder
from ostinato.generation.folders import TWO_STAGE, load_lm, parts, training_state
from ostinato.generation.recipe import from_tags
from ostinato.models.denoisers import make_denoiser
from ostinato.models.lm import count_parameters
from ostinato.utils.audio import read_tags
from ostinato.utils.errors import UserError
from ostinato.utils.files import read_config, read_weights, saved_digest


def describe(folder: Path) -> dict[str, str]:
    """What a checkpoint is, for `ostinato info`: rows of name and value. Raises UserError if it is not a model."""
    config = read_config(folder)
    if config.get("model_type") == "pocket":
        codec = load_codec(str(folder))
        count = sum(p.numel() for p in codec.parameters())  # type: ignore[attr-defined]
        rows = {"type": "pocket codec", "parameters": f"{count / 1e6:.1f} M", "codec": codec_line(config["codec"])}
        return rows | {"codec id": fingerprint(codec)} | training_rows(folder)
    if config.get("model_type") in (TWO_STAGE, "ostinato-fine"):
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


def verify(folder: Path) -> dict[str, str]:
    """Every file of weights in a model's folder, read and held against the sha256 it was saved with: rows of name and
    finding. Raises UserError for the first that is damaged, and where there are none."""
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no weights: the folder is not complete, copy it again")
    rows = {}
    for path in files:
        read_weights(path)
        found = saved_digest(path)
        told = f"as it was saved, sha256 {found[:16]}..." if found else "readable; no sha256 was saved with it"
        rows[path.relative_to(folder).as_posix()] = told
    return rows


def describe_take(path: Path) -> dict[str, str]:
    """What the tags of an audio file say of how it was made: rows of name and value. Raises UserError where they say
    nothing."""
    recipe = from_tags(read_tags(path))
    if recipe is None:
        raise UserError(
            f"the tags of {path} do not say how it was made: only files of `ostinato generate` and studio do"
        )
    turns = {f"from frame {turn.frame}": f"{turn.prompt} (seed {turn.seed})" for turn in recipe.turns[1:]}
    settings = {name.replace("_", "-"): f"{value}" for name, value in asdict(recipe.sampling).items() if value != ""}
    fine = {"steps": str(recipe.fine.steps)} if recipe.fine else {}
    begins = 0 if recipe.before is None else recipe.before.shape[-1]
    return {
        "prompt": recipe.turns[0].prompt,
        "seed": str(recipe.turns[0].seed),
        **turns,
        "model": f"{recipe.model} (id {recipe.model_id})",
        **settings,
        **fine,
        "frames": f"{recipe.frames or 'without end'}" + (f", after {begins} of another piece" if begins else ""),
    }


def codec_line(codec: dict) -> str:
    rate = codec["sample_rate"] / codec["hop"]
    return f"pocket, {codec['sample_rate']} Hz, {rate:g} frames a second, {codec['num_codebooks']} codebooks"


def describe_stages(folder: Path, config: dict) -> dict[str, str]:
    """`model.describe` of a joint folder, or of a fine stage's."""
    if config["model_type"] == TWO_STAGE:
        first, second = parts(folder, config)
        stages = {f"lm: {name}": value for name, value in describe(first).items()}
        return {"type": "two stages"} | stages | {f"fine: {name}": value for name, value in describe(second).items()}
    sizes, _, sampling, config = fine_folder(folder)
    with torch.device("meta"):
        count = count_parameters(make_denoiser(sizes))
    return {
        "type": "fine stage",
        "denoiser": f"{sizes.denoiser}, width {sizes.width}, {sizes.blocks} blocks, predicts {sizes.prediction_type}",
        "parameters": f"{count / 1e6:.1f} M",
        "codebooks": f"2 to {sizes.num_codebooks}, from the first",
        "codec": f"{config['codec']} ({config.get('codec_id') or 'unknown id'})",
        "text encoder": f"{config['text']} ({sizes.text_width} wide)",
        "sampler": f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance:g}",
        "plays": "its codes" if sampling.snapped else "its latents, before they are quantized to codes",
        "delay": f"{sampling.window:g} s of music, the window of a stream",
    } | training_rows(folder)


def training_rows(folder: Path) -> dict[str, str]:
    """The row of `training_state`, for `ostinato info`."""
    so_far = training_state(folder)
    if "step" not in so_far:
        return {}
    seed = f", seed {so_far['seed']}" if "seed" in so_far else ""  # an imported checkpoint does not say
    return {"trained": f"{so_far['step']} steps{seed}"}
