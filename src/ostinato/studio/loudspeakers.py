"""Sound out of this machine's loudspeakers, through sounddevice (PortAudio)."""

import queue
import threading
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from ostinato.utils.errors import UserError

AHEAD = 100  # pieces made before they are heard, at most


def check() -> None:
    """Raise UserError where nothing can be heard."""
    try:
        import sounddevice

        sounddevice.query_devices(kind="output")
    except OSError as error:  # no PortAudio
        raise UserError(f"no sound here ({error}): install PortAudio (apt-get install libportaudio2)") from error
    except Exception as error:  # sounddevice's own, which says that there is no such device
        raise UserError(f"there are no loudspeakers here ({error}): write a file with ostinato generate") from error


def play_aloud(pieces: Iterator[Tensor], rate: int) -> int:
    """Play pieces [1, samples] to their end; returns how often the sound broke off. What the maker raises is raised;
    UserError where the loudspeakers fail."""
    import sounddevice

    waiting: queue.Queue[np.ndarray | None] = queue.Queue(AHEAD)
    failed: list[BaseException] = []
    stop = threading.Event()

    def put(item: np.ndarray | None) -> None:
        while not stop.is_set():
            try:
                return waiting.put(item, timeout=0.2)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for piece in pieces:
                put(piece[0].numpy())
                if stop.is_set():
                    return
        except BaseException as error:
            failed.append(error)
        finally:
            put(None)

    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    gaps, first = 0, True
    try:
        with sounddevice.OutputStream(rate, channels=1, dtype="float32") as out:
            while (piece := waiting.get()) is not None:
                late = out.write(piece[:, None])  # whether the device had nothing to play since the last
                gaps += bool(late) and not first
                first = False
    except sounddevice.PortAudioError as error:
        raise UserError(f"the loudspeakers failed ({error}): write a file with ostinato generate") from error
    finally:
        stop.set()
        maker.join()
    if failed:
        raise failed[0]
    return gaps
