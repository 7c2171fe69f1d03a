"""Audio and weights that are a function of a seed alone: numpy's RandomState gives the same numbers on every version,
so that an original implementation on its own old stack and the port here can be handed the same ones."""

import numpy as np

SAMPLED = 64  # values of each layer that a fixture keeps
LONGEST = 4194301  # numbers drawn for one array, a prime; a longer array repeats them


def audio(samples: int, sample_rate: int, seed: int) -> np.ndarray:
    """Decaying partials over the whole band, and noise so that no band is empty, float32, peak 0.5."""
    rng = np.random.RandomState(seed)
    t = np.arange(samples) / sample_rate
    sound = 0.2 * rng.standard_normal(samples)
    for pitch, decay, start in rng.uniform(0, 1, (24, 3)):
        since = t - start * samples / sample_rate
        tone = np.sin(2 * np.pi * 40 * (sample_rate / 90) ** pitch * since)
        sound += np.where(since > 0, np.exp(-10 * decay * np.maximum(since, 0)), 0) * tone
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def weights(shapes: dict, seed: int) -> dict:
    """An array for each name, in any order: He-scaled matrices, norms near 1, small biases and positions."""
    rng, made = np.random.RandomState(seed), {}
    for name, shape in sorted(shapes.items()):
        x = np.sqrt(12) * (rng.random_sample(min(int(np.prod(shape)), LONGEST)) - 0.5)  # unit variance
        if name.endswith("running_var"):
            x = 0.5 + x**2
        elif len(shape) > 1 and not name.endswith(("embed", "token", "table")):
            x *= np.sqrt(1.5 / np.prod(shape[1:]))
        elif len(shape) == 1 and name.endswith("weight"):
            x = 1 + 0.1 * x
        else:
            x *= 0.1
        made[name] = np.resize(x.astype(np.int64 if name.endswith("num_batches_tracked") else np.float32), shape)
    return made


def sample(values: np.ndarray) -> np.ndarray:
    """SAMPLED values spread evenly over an array, the first and the last among them."""
    flat = np.asarray(values).reshape(-1)
    return flat[np.linspace(0, flat.size - 1, SAMPLED).round().astype(int)].astype(np.float32)
