"""What every room uses and nothing here knows of: errors, files, audio, configs.

    errors       `UserError`, the one exception of ours: a mistake the user can fix
    audio        read, stream and write audio files; loudness
    samples      writing them, in NumPy alone
    audio_files  what can be read and written, and is a file whole? Seen from its name and header
    files        model folders (config.json beside model.safetensors), files written whole or not at all
    hub          other people's models, from a folder, the hub's cache or the hub
    text_files   text from an ordinary file
    schema       nested dicts, as JSON and YAML hold them, to checked dataclasses
    threads      how many PyTorch computes with
    bars         progress: bars in a terminal, plain lines elsewhere
    stft         the short-time Fourier transform
    spectrogram  a log-mel spectrogram as a PNG

This room imports no other.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "audio": ["loudness_db", "read_audio", "stream_audio", "write_audio"],
        "errors": ["UserError", "nearest"],
        "schema": ["build"],
    },
)
