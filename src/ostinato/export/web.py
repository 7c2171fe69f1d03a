"""An exported model as a page: a static folder that turns a sentence into music in a browser and asks no one else.

The page's own files are in page/. `model.js` is `runtime` in JavaScript, on onnxruntime-web, which is there too:
ort.mjs and ort.wasm.xz are dist/ort.wasm.bundle.min.mjs and dist/ort-wasm-simd-threaded.wasm of npm's package 1.30.0.
Weights become numbers of 8 or 16 bits, and all that is large is packed by gzip, which browsers unpack.
"""

import gzip
import json
import lzma
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ostinato
from ostinato.export.write import ABOUT, WRITTEN, check_packages, export_model, tokenizer_of, tokens_of
from ostinato.generation.pipeline import Ostinato
from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

PAGE = Path(__file__).parent / "page"
RING = Path(ostinato.__file__).parent / "studio" / "static" / "studio" / "ring-worklet.js"  # the studio's audio thread
# Bits of a weight, by graph: where 8 were measured to change the music no more than 16 do (LOG.md).
BITS = {"text": 8, "fine-text": 8, "read": 16, "step": 16, "denoise": 8, "decode": 8}
LARGE, SMALL = 1 << 16, 1 << 12  # numbers of a weight from which it is worth 8 bits, and 16


def export_page(
    model: Ostinato, name: str, out: str | Path, on_graph: Callable[[str, int, int], None] = lambda *_: None
) -> Path:
    """Write the page of `model` to the folder `out`: index.html comes last.

    Raises UserError where `out` holds anything but an earlier page or the model reads with another encoder than minilm,
    and what `export_model` raises.
    """
    check_packages()
    if json.loads(tokenizer_of(tokens_of(model.text)).to_str())["model"].get("type") != "WordPiece":
        raise UserError(f"a page reads with minilm, and this model with {model.text.name}: train one on minilm")
    if model.fine is not None and model.fine.text is not None:
        raise UserError("both stages must read with the same text encoder to be a page")
    folder = empty_page(out)
    with tempfile.TemporaryDirectory() as temporary:
        graphs = export_model(model, name, temporary, on_graph)
        inside = folder / "model"
        inside.mkdir()
        about: dict[str, Any] = json.loads((graphs / ABOUT).read_text())
        packed = {path.name: smaller(path, BITS[path.stem]) for path in sorted(graphs.glob("*.onnx"))}
        packed["ort.wasm"] = lzma.decompress((PAGE / "ort.wasm.xz").read_bytes())
        for file, data in packed.items():
            write_packed(inside / f"{file}.bin", data)
        about["bytes"] = {file: (inside / f"{file}.bin").stat().st_size for file in packed}
        shutil.copyfile(graphs / "tokenizer.json", inside / "tokenizer.json")
        write_atomic(inside / ABOUT, lambda path: path.write_text(json.dumps(about, indent=1) + "\n"))
    for path in (RING, *sorted(PAGE.iterdir(), key=lambda path: path.name == "index.html")):
        if path.suffix != ".xz":
            shutil.copyfile(path, folder / path.name)
    return folder


def earlier_page(out: str | Path) -> list[Path]:
    """What an earlier page left in `out`. Raises UserError where it is or holds anything else."""
    folder, own = Path(out), {path.name for path in PAGE.iterdir()} | {RING.name, "model"}
    try:
        found = list(folder.iterdir()) if folder.exists() else []
        inside = {path.name for path in (folder / "model").glob("*") if path.suffix not in (".bin", ".tmp")}
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): name another folder") from error
    if strangers := {path.name for path in found} - own | inside - set(WRITTEN):
        raise UserError(f"{folder} holds more than a page of ours ({min(strangers)}): name another folder")
    return found


def empty_page(out: str | Path) -> Path:
    """`out`, made or emptied of an earlier page. Raises: as `earlier_page`."""
    folder = Path(out)
    try:
        for path in earlier_page(out):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): name another folder") from error
    return folder


def write_packed(path: Path, data: bytes) -> None:
    write_atomic(path, lambda temporary: temporary.write_bytes(gzip.compress(data, 6, mtime=0)))


def smaller(path: Path, bits: int) -> bytes:
    """A graph with weights of 16 bits, or of 8 and a scale for each row, which it widens again where it is loaded: so
    arithmetic stays float32, and only the file is small. Weights that are no matrix, or small, have 16."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    kept, widened = [], []
    for weight in model.graph.initializer:
        values, name = numpy_helper.to_array(weight), weight.name
        if values.dtype != np.float32 or values.size < SMALL:
            kept.append(weight)
        elif bits == 16 or values.ndim != 2 or values.size < LARGE:
            kept.append(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            widened.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
        else:
            scale = np.maximum(np.abs(values).max(1, keepdims=True), 1e-12) / 127
            kept.append(numpy_helper.from_array(np.round(values / scale).astype(np.int8), f"{name}.whole"))
            kept.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"))
            widened.append(helper.make_node("Cast", [f"{name}.whole"], [f"{name}.wide"], to=TensorProto.FLOAT))
            widened.append(helper.make_node("Mul", [f"{name}.wide", f"{name}.scale"], [name]))
    nodes = [*widened, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    return model.SerializeToString()
