"""Writes clap.npz beside it: what laion_clap makes of seeded weights, audio and tokens, layer by layer.

Run with laion_clap==1.1.7 torchlibrosa==0.1.0 transformers==5.23.0. A narrow audio branch and one text layer keep the
test short; names and shapes of the weights of HTSAT-base with RoBERTa-base are in the fixture too. laion_clap's own
`__init__` and training code fetch tokenizers from the hub on import: only the modules needed are loaded.
"""

import ast
import json
import sys
import types
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from seeded import audio, sample, weights
from transformers import RobertaConfig, RobertaModel

FOLDER = Path(find_spec("laion_clap").origin).parent
SEED = 0
KEPT = ("stft", "melW", "attn_mask", "relative_position_index", "position_ids", "token_type_ids", "logit_scale")


def import_clap():
    for name in ("laion_clap", "laion_clap.clap_module"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(FOLDER.parent / name.replace(".", "/"))]
    from laion_clap.clap_module import htsat, model

    return htsat, model


def audio_features():
    """laion_clap.training.data.get_audio_features alone."""
    path = FOLDER / "training" / "data.py"
    wanted = ("get_audio_features", "float32_to_int16", "int16_to_float32")
    body = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", "") in wanted]
    have = {"torch": torch, "np": np, "F": F, "suppress": suppress}
    exec(compile(ast.Module(body, []), str(path), "exec"), have)
    return have


def build(model, htsat, config: dict, small: bool):
    """laion_clap's CLAP with HTSAT-base and RoBERTa-base, or both small."""
    narrow = {"embed_dim": 32, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]}
    if small:
        model.create_htsat_model = lambda cfg, fusion, kind: htsat.HTSAT_Swin_Transformer(
            spec_size=256, patch_size=4, patch_stride=(4, 4), window_size=8, config=cfg, **narrow
        )
    text = RobertaConfig(max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    if small:
        text.update({"num_hidden_layers": 1, "vocab_size": 300, "intermediate_size": 512})
    else:
        text.update({"vocab_size": 50265})
    model.RobertaModel.from_pretrained = lambda name: RobertaModel(text)
    text_cfg = {**config["text_cfg"], "model_type": "roberta"}
    return model.CLAP(256 if small else config["embed_dim"], config["audio_cfg"], text_cfg).eval()


@torch.no_grad()
def main() -> None:
    htsat, model = import_clap()
    config = json.loads((FOLDER / "clap_module" / "model_configs" / "HTSAT-base.json").read_text())
    full = {name: list(value.shape) for name, value in build(model, htsat, config, False).state_dict().items()}
    clap = build(model, htsat, config, True)
    state = clap.state_dict()
    learnt = {name: tuple(v.shape) for name, v in state.items() if not any(part in name for part in KEPT)}
    state.update({name: torch.from_numpy(value) for name, value in weights(learnt, SEED).items()})
    clap.load_state_dict(state)

    heard = {}

    def hear(name: str):
        def hook(layer, inputs, output) -> None:
            heard[name] = (output[0] if isinstance(output, tuple) else output).numpy()

        return hook

    branch = clap.audio_branch
    named = {"mel": branch.logmel_extractor, "patch_embed": branch.patch_embed, "norm": branch.norm}
    named |= {f"layers.{i}": layer for i, layer in enumerate(branch.layers)}
    embedded = []
    data = audio_features()
    for samples in (480000, 150000):
        clip = data["int16_to_float32"](data["float32_to_int16"](1.5 * audio(samples, 48000, SEED)))
        features = data["get_audio_features"](
            {}, torch.from_numpy(clip), 480000, "rand_trunc", "repeatpad", config["audio_cfg"]
        )
        handles = [layer.register_forward_hook(hear(name)) for name, layer in named.items()] if not embedded else []
        embedded.append(clap.get_audio_embedding([features]).numpy()[0])
        for handle in handles:
            handle.remove()

    ids = np.random.RandomState(SEED).randint(3, 300, (2, 77))
    mask = np.arange(77)[None] < np.array([[77], [9]])
    tokens = {"input_ids": torch.from_numpy(np.where(mask, ids, 1)), "attention_mask": torch.from_numpy(mask).long()}
    texts = clap.get_text_embedding(tokens).numpy()
    np.savez_compressed(
        Path(__file__).with_name("clap.npz"),
        names=list(named),
        layers=np.stack([sample(heard[name]) for name in named]),
        audio=np.stack(embedded),
        text=texts,
        melW=state["audio_branch.logmel_extractor.melW"].numpy(),
        learnt=json.dumps(learnt),
        full=json.dumps(full),
    )
    np.savez("clap-full.npz", audio=np.stack(embedded), text=texts, **heard)


if __name__ == "__main__":
    main()
