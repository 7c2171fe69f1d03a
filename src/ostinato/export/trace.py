"""A module becomes a file in ONNX, by PyTorch's exporter of traces (`dynamo=False`).

The newer exporter (`dynamo=True`) takes half a minute for a graph that this one writes in half a second, and would add
nothing: everything exported is straight-line arithmetic.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ostinato.utils.errors import UserError
from ostinato.utils.files import write_atomic

OPSET = 18


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    path: Path,
    named: bool = False,
) -> None:
    """Write `module` as it acts on `inputs` to `path`. dynamic: of inputs and outputs, the axes of any length, with
    their names; named: the module takes its inputs as one dict. Raises UserError where it cannot be exported."""

    def write(temporary: Path) -> None:
        torch.onnx.export(
            module.eval(),
            (dict(inputs), {}) if named else tuple(inputs.values()),
            str(temporary),
            dynamo=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in dynamic.items()},
            opset_version=OPSET,
            do_constant_folding=False,  # the runtime does it, and files stay small
        )

    try:
        with torch.no_grad(), quiet():
            write_atomic(path, write)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(
            f"PyTorch {torch.__version__} cannot export {path.stem} ({reason[:200]}): use PyTorch 2.11 to 2.13"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """The operators that the exporter lacks, attention in a way that it knows, and not a word of shapes that are fixed.
    Afterwards all is as before."""
    fast, logger = torch.backends.mha.get_fastpath_enabled(), logging.getLogger("torch.onnx")
    level = logger.level
    for name, symbolic in LACKING.items():
        torch.onnx.register_custom_op_symbolic(name, symbolic, OPSET)
    torch.backends.mha.set_fastpath_enabled(False)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in LACKING:
            torch.onnx.unregister_custom_op_symbolic(name, OPSET)
        torch.backends.mha.set_fastpath_enabled(fast)
        logger.setLevel(level)


def rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, as ONNX Runtime knows to make one operator of."""
    floats = lambda value: g.op("Constant", value_t=torch.tensor(value))  # noqa: E731
    axes = g.op("Constant", value_t=torch.tensor([-1]))
    small = torch.onnx.symbolic_helper._maybe_get_const(eps, "f")
    mean = g.op("ReduceMean", g.op("Pow", x, floats(2.0)), axes)
    root = g.op("Sqrt", g.op("Add", mean, floats(float(small) if isinstance(small, float) else 1.2e-7)))
    scaled = g.op("Div", x, root)
    return scaled if torch.onnx.symbolic_helper._is_none(weight) else g.op("Mul", weight, scaled)


def transposed(g: Any, x: Any) -> Any:
    """The last two axes swapped."""
    *first, a, b = range(torch.onnx.symbolic_helper._get_tensor_rank(x) or 0)
    return g.op("Transpose", x, perm_i=[*first, b, a])


# Operators that the exporter has no way to write.
LACKING: dict[str, Callable[..., Any]] = {"aten::rms_norm": rms_norm, "aten::mT": transposed}
