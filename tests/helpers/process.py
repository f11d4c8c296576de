"""A picture of the process: what a library could change for the application around it, what it loads."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from typing import Any

import numpy as np
import torch

HEAVY = {"torch", "torchaudio", "librosa", "numba", "scipy", "matplotlib"}


def loaded_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after `code`."""
    code += "\nimport sys; print('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def picture_of_process() -> dict[str, Any]:
    """State by name; two pictures are equal if nothing was left behind."""
    return {**_generators(), **_torch(), **_python(), **_logging()}


def _generators() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    return {
        "random of Python": random.getstate(),
        "random of numpy": (name, np.asarray(keys).tobytes(), rest),
        "random of torch": torch.random.get_rng_state().numpy().tobytes(),
    }


def _torch() -> dict[str, Any]:
    elsewhere: list[int] = []
    thread = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return {
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "threads of torch elsewhere": elsewhere,
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "precision": torch.get_float32_matmul_precision(),
        "precision of products": [
            backend.fp32_precision
            for backend in (torch.backends, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
        ],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "onednn": torch.backends.mkldnn.enabled,
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def _python() -> dict[str, Any]:
    descriptors = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
    mask = os.umask(0)
    os.umask(mask)
    return {
        "errors of numpy": np.geterr(),
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "warnings": list(warnings.filters),
        "working folder": os.getcwd(),
        "mask of new files": mask,
        "descriptors": len(descriptors),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "path": list(sys.path),
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "locale": locale.setlocale(locale.LC_ALL),
        "collector": (gc.isenabled(), gc.get_threshold()),
        "temporary folder": tempfile.gettempdir(),
    }


def _logging() -> dict[str, Any]:
    root = logging.getLogger()
    names = ("audiovq", "numba", "torch", "PIL", "matplotlib")
    loggers = [root, *(logging.getLogger(name) for name in names)]
    return {"logging": [(lg.name, lg.level, lg.propagate, list(lg.handlers), lg.disabled) for lg in loggers]}
