"""From a sentence to a waveform. Read `pipeline` first: `load`, then `Ostinato.generate` or `Ostinato.play`.

    pipeline     `Ostinato`: text encoder, language model, fine stage and codec held together; `load` loads it all
    sampling     the loop that generates frame after frame, with a state that can be saved and forked; settings: its own
    cuda_graph   a step of the loop as a CUDA graph
    guidance     classifier-free guidance: a branch with the text beside one without
    fine_stage   the other codebooks, by diffusion; windows: a clip of any length, a window at a time
    diffusion    v-prediction: losses and the loop of a sampler; schedule: its steps, as plain numbers
    streaming    `Stream`: music as it is made, in pieces (how a stream is cut), which can be steered and forked
    rows         several listeners of one model, as rows of one batch
    precision    number types to generate in: float32, TF32, bfloat16, float16
    keeping      a generation kept in a file while it is made, so that it can be gone on with
    recipe       what a take was made from, as a file's tags hold it
    folders      what a model folder holds, how a name finds it; info: the same for people; join: two stages as one

The way: text -> `sampling.generate_frames` -> `fine_stage.refine` (two stages) -> `streaming.Stream` or the codec.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "pipeline": ["Clip", "Ostinato", "load"],
        "sampling": ["Generation", "Sampling", "generate_frames"],
        "settings": ["FineSampling"],
        "folders": ["resolve"],
        "info": ["describe"],
    },
)
