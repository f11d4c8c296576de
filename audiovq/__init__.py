"""Speech to a short sequence of integers and back, with models trained on your own recordings.

    >>> import audiovq
    >>> tokenizer = audiovq.load()
    >>> codes = tokenizer.encode("speech.wav")
    >>> recording = tokenizer.decode(codes)

What is named here is imported on first use: `import audiovq` alone loads neither torch nor the rest.
"""

from __future__ import annotations

# Nothing is imported here, not even `typing`: the command comes this way before it can take an interrupt.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from audiovq.errors import AudiovqError
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer, load

__version__ = "0.1.0"

__all__ = ["AudiovqError", "CodeSequence", "Tokenizer", "__version__", "load"]

_HOME = {
    "AudiovqError": "audiovq.errors",
    "CodeSequence": "audiovq.speech.codes",
    "Tokenizer": "audiovq.tokenizer",
    "load": "audiovq.tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'audiovq' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
