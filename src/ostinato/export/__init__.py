"""The same model for other runtimes: `ostinato export MODEL OUT` writes ONNX, for ONNX Runtime and for browsers.

    graphs   what is exported, as modules that tracing can follow: text, reading, step, denoising, sound
    trace    a module becomes a file in ONNX
    write    a model becomes a folder of graphs, with a JSON that says how they join
    web      a model becomes a page: weights of few bits, and what is in the folder page/
    runtime  such a folder played with ONNX Runtime and NumPy; imports no torch

The way: text.onnx -> read.onnx -> step.onnx, again and again -> denoise.onnx (two stages) -> decode.onnx.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"write": ["export_model"], "web": ["export_page"], "runtime": ["Exported", "load_exported"]}
)
