"""Every verb works in a child of any kind, after any verb in the parent, and gives what it gives alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from helpers.models import DATA

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

PROGRAM = """
import hashlib, multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

import audiovq
from audiovq.evaluation.likelihood import measure_recording_bits
from audiovq.image.tokenizer import load_image_tokenizer

RECORDING = Path(sys.argv[1])
FOLDER = Path(sys.argv[2])
LOADED = {}


def tokenizer():
    return LOADED.setdefault("speech", audiovq.load())


def encode():
    return tokenizer().encode(RECORDING).codes


def decode(fast=False):
    return tokenizer().decode(tokenizer().encode(RECORDING), fast=fast).samples


def decode_fast():
    return decode(fast=True)


def generate():
    return tokenizer().prior.generate(0.2)[0].codes


def avq():
    path = FOLDER / f"{os.getpid()}.avq"
    tokenizer().save_codes(tokenizer().encode(RECORDING), path, force=True)
    return tokenizer().load_codes(path).codes


def score():
    # Sums of several threads round in another way.
    facts = measure_recording_bits(tokenizer(), RECORDING, bound=True)
    return np.array([facts["bound_bits_a_sample"]]).round(3)


def picture():
    images = LOADED.setdefault("images", load_image_tokenizer())
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    return images.decode(images.encode(pixels))


VERBS = [encode, decode, decode_fast, generate, avq, score, picture]


def digest(verb):
    return hashlib.sha256(np.ascontiguousarray(verb())).hexdigest()


def digests(verbs=VERBS):
    return {verb.__name__: digest(verb) for verb in verbs}


def forks_again(connection):
    if os.fork() == 0:
        connection.send(digests())
        os._exit(0)
    os.wait()


def main():
    tokenizer()
    context = multiprocessing.get_context(sys.argv[3])
    with context.Pool(2) as pool:
        made = pool.map(digests, [VERBS[:4], VERBS[4:]])
    alone = {}
    for verb in VERBS:
        alone[verb.__name__] = digest(verb)
        if sys.argv[3] == "fork":
            with ProcessPoolExecutor(1, context) as pool:
                made.append(pool.submit(digests, [encode, decode_fast, picture]).result())
    if sys.argv[3] == "fork":
        ours, theirs = multiprocessing.Pipe()
        process = context.Process(target=forks_again, args=(theirs,))
        process.start()
        made.append(ours.recv())
        process.join()
    for some in made:
        assert some == {name: alone[name] for name in some}


if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn"])
def test_children_compute_what_the_parent_does(tmp_path: Path, kind: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    short = tmp_path / "short.wav"
    samples, rate = soundfile.read(DATA / "ls1998_008.flac", frames=6_000)
    soundfile.write(short, samples, rate)
    # With several threads, whatever the machine has: those of OpenMP do not survive a fork.
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, program, short, tmp_path, kind]
    started = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, errors = started.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        # Children that wait for ever would outlive their parent.
        os.killpg(started.pid, signal.SIGKILL)
        started.communicate()
        pytest.fail("a child hangs")
    assert started.returncode == 0, errors
