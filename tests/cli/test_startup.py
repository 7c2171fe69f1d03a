"""What `ostinato generate` imports: PyTorch and little else, or starting takes longer than the music."""

import subprocess
import sys

import pytest

# Each takes a tenth of a second to seconds. Of them generating needs but one.
HEAVY = {
    *(
        "torch",
        "transformers",
        "accelerate",
        "diffusers",
        "huggingface_hub",
        "datasets",
        "pyarrow",
        "pandas",
        "sklearn",
    ),
    *("scipy", "matplotlib", "PIL", "tensorboard", "peft", "ray", "openai", "demucs", "sympy", "torchvision"),
    *("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.checkpoint", "tensorflow"),
}
PROGRAM = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from ostinato.cli import main
main()
"""


@pytest.mark.slow
def test_generate_imports_no_more_than_it_needs(tmp_path):
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "generate",
        "slow piano",
        "--seconds",
        "0.3",
        "-o",
        str(tmp_path / "a.wav"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stderr.split()) == {"torch"}
