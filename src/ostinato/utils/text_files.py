"""Text that people give by name: read whole, so only from an ordinary file, since a device may have no end."""

import errno
import os
from pathlib import Path


def read_text(path: str | os.PathLike, encoding: str = "utf-8") -> str:
    """Raises OSError, also for what is no ordinary file, and UnicodeDecodeError."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no ordinary file", str(path))
    return path.read_text(encoding=encoding)
