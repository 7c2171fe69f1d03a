"""Writes openl3.npz beside it: what the original OpenL3 makes of seeded weights and audio, layer by layer.

Run with openl3==0.4.2 kapre==0.3.7 resampy==0.2.2 tensorflow-cpu==2.21.0 tf-keras==2.21.0 librosa==0.11.0 and
TF_USE_LEGACY_KERAS=1. openl3's setup.py downloads weights, which are not used.

The bands between 22.05 and 24 kHz are empty after resampling, and what the network hears there is the rounding of the
FFT: about -79 dB here as with exact arithmetic, -61 dB with the FFT of tensorflow-cpu 2.13.1, all else equal. So layers
are compared on audio that fills the whole band.
"""

from pathlib import Path

import numpy as np
import openl3
from seeded import audio, sample, weights
from tensorflow.keras.layers import BatchNormalization, Conv2D

SEED = 0


def shapes(network) -> dict:
    """Names by number, shapes in PyTorch's layout."""
    found = {}
    for i, layer in enumerate(layer for layer in network.layers if layer.get_weights()):
        if isinstance(layer, Conv2D):
            height, width, c_in, c_out = layer.kernel.shape
            found |= {f"{i}.weight": (c_out, c_in, height, width), f"{i}.bias": (c_out,)}
        else:
            assert isinstance(layer, BatchNormalization)
            width = tuple(layer.gamma.shape)
            found |= {f"{i}.{part}": width for part in ("weight", "bias", "running_mean", "running_var")}
    return found


def main() -> None:
    network = openl3.models.AUDIO_MODELS["mel256"](include_frontend=True)
    names = shapes(network)
    made = weights(names, SEED)
    for i, layer in enumerate(layer for layer in network.layers if layer.get_weights()):
        own = [made[name] for name in names if name.startswith(f"{i}.")]
        layer.set_weights([own[0].transpose(2, 3, 1, 0), own[1]] if isinstance(layer, Conv2D) else own)

    network.save_weights("openl3-seeded.h5")
    model = openl3.models.load_audio_embedding_model_from_path("openl3-seeded.h5", "mel256", 512)

    clip = audio(50001, 44100, SEED)
    embedding, _ = openl3.get_audio_embedding(clip, 44100, model=model, hop_size=0.5, verbose=False)
    windows = openl3.core._preprocess_audio_batch(clip, 44100, center=True, hop_size=0.5)
    outputs, x = [], audio(96000, 48000, SEED).reshape(2, 1, 48000)
    for layer in network.layers[1:]:
        x = layer(x, training=False)
        outputs.append(np.asarray(x).transpose(0, 3, 1, 2))  # PyTorch's order: channels, mel bands, frames
    np.savez_compressed(
        Path(__file__).with_name("openl3.npz"),
        windows=np.stack([sample(window) for window in windows]),
        layers=np.stack([sample(output) for output in outputs]),
        names=[type(layer).__name__ for layer in network.layers[1:]],
        embedding=embedding,
    )
    # Everything, to compare once where it was made.
    np.savez("openl3-full.npz", windows=windows, **{f"layer{i}": output for i, output in enumerate(outputs)})


if __name__ == "__main__":
    main()
