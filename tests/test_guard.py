"""Results do not depend on the state of the process around them, and no other thread notices a call."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audiovq.batch import FileJob, encode_files
from audiovq.evaluation.likelihood import measure_recording_bits
from audiovq.image.tokenizer import load_image_tokenizer
from audiovq.nn.dropout import dropout, dropout_generator
from audiovq.nn.guard import guarded, own_generator, torch_threads
from audiovq.tokenizer import Tokenizer, load
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import train_speech_model
from helpers.models import speech
from helpers.training import TWO_STAGES, same_model

Ambient = Callable[[], AbstractContextManager[object]]


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def medium_precision() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def products(kind: Any, precision: str) -> Iterator[None]:
    """Torch's newer way to set a precision, which makes reading the older one an error."""
    kind.fp32_precision = precision
    try:
        yield
        assert kind.fp32_precision == precision
    finally:
        kind.fp32_precision = "none"


AMBIENT: dict[str, Ambient] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": default_device,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "precision": medium_precision,
    "precision of all products": lambda: products(torch.backends, "bf16"),
    "precision of products": lambda: products(torch.backends.mkldnn.matmul, "bf16"),
    "precision of a GPU": lambda: products(torch.backends.cuda.matmul, "tf32"),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "numpy": lambda: np.errstate(all="raise"),
}


@contextlib.contextmanager
def everything() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in ("float64", "device", "autocast", "precision", "inference", "numpy"):
            stack.enter_context(AMBIENT[name]())
        yield


def streamed(tokenizer: Tokenizer) -> list[bytes]:
    """Codes at a running level, and their sound."""
    encoder = tokenizer.encoder_stream(22_050)
    decoder = tokenizer.decoder_stream(seed=1)
    rows = [encoder.push(speech(9_000)), encoder.flush()]
    return [part.tobytes() for part in (*rows, *map(decoder.push, rows), decoder.flush())]


def compute(model: Path, recording: Path, folder: Path) -> dict[str, object]:
    """What the verbs give, from a file on."""
    tokenizer = load(model)
    codes = tokenizer.encode(recording)
    tokenizer.save_codes(codes, folder / "codes.avq", force=True)
    images = load_image_tokenizer()
    pixels = np.random.default_rng(0).integers(0, 256, (28, 30, 1), dtype=np.uint8)
    grid = images.encode(pixels)
    return {
        "codes": codes.codes.tobytes(),
        "voice": codes.voice,
        "speech": tokenizer.decode(codes, seed=3).samples.tobytes(),
        "converted": tokenizer.decode(codes, speaker=1, temperature=0.5).samples.tobytes(),
        "fast": tokenizer.decode(codes, fast=True).samples.tobytes(),
        "streamed": streamed(tokenizer),
        "generated": [c.codes.tobytes() for c in tokenizer.prior.generate(0.5, 2, speaker=1)],
        "unconditional": tokenizer.prior.generate(0.2)[0].speaker,
        "avq": (folder / "codes.avq").read_bytes(),
        "read": tokenizer.load_codes(folder / "codes.avq").codes.tobytes(),
        "score": measure_recording_bits(tokenizer, recording, bound=True, speakers=2),
        "grid": grid.codes.tobytes(),
        "picture": images.decode(grid).tobytes(),
        "pictures": [g.codes.tobytes() for g in images.generate(1, height=8, width=8)],
    }


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from audiovq.audio.writer import write_audio

    path = tmp_path_factory.mktemp("wav") / "speech.wav"
    write_audio(path, speech(16_000), 16_000)
    return path


@pytest.fixture(scope="module")
def expected(
    tiny_levels_path: Path, wav: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    return compute(tiny_levels_path, wav, tmp_path_factory.mktemp("expected"))


@pytest.mark.parametrize("name", AMBIENT)
def test_results_do_not_depend_on_what_the_application_set(
    tiny_levels_path: Path, wav: Path, expected: dict[str, object], tmp_path: Path, name: str
) -> None:
    with AMBIENT[name]():
        made = compute(tiny_levels_path, wav, tmp_path)
    assert {key for key in made if made[key] != expected[key]} == set()


def test_training_does_not_depend_on_what_the_application_set(
    finished_run: Path, training_corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "two.toml").write_text(TWO_STAGES)
    with everything():
        train_speech_model(tmp_path / "two.toml", training_corpus, RunOptions(tmp_path / "run", threads=1))
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device().type == "meta"
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert same_model(finished_run, tmp_path / "run")


def test_blocks_are_given_out_in_the_state_of_the_caller(tiny_tokenizer: Tokenizer) -> None:
    codes = tiny_tokenizer.encode(speech(40_000))
    blocks = list(tiny_tokenizer.stream(codes))
    with everything():
        for block in tiny_tokenizer.stream(codes):
            assert torch.is_inference_mode_enabled()
            assert torch.get_float32_matmul_precision() == "medium"
            assert torch.ones(1).dtype == torch.float64
            np.testing.assert_array_equal(block, blocks.pop(0))
    assert blocks == []


def test_an_error_puts_everything_back(tiny_tokenizer: Tokenizer) -> None:
    threads = torch.get_num_threads()

    @guarded(threads=threads + 1)
    def fail() -> None:
        assert torch.ones(1).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "highest"
        raise ZeroDivisionError

    with everything():
        with pytest.raises(ZeroDivisionError):
            fail()
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_other_threads_notice_nothing() -> None:
    """A number of threads, a dtype and a device of a call are its own thread's."""
    threads = torch.get_num_threads()
    seen: list[tuple[int, torch.dtype, str]] = []

    def look() -> None:
        seen.append((torch.get_num_threads(), torch.ones(1).dtype, torch.get_default_device().type))

    with default_dtype(torch.float64), guarded(threads=threads + 3):
        assert torch.get_num_threads() == threads + 3
        assert torch.ones(1).dtype == torch.float32
        watching = threading.Thread(target=look)
        watching.start()
        watching.join()
    assert seen == [(threads, torch.float64, "cpu")]
    assert torch.get_num_threads() == threads


def test_threads_that_start_during_a_call_keep_their_number(
    tiny_tokenizer: Tokenizer, wav: Path, tmp_path: Path
) -> None:
    codes = tiny_tokenizer.encode(speech(30_000))
    seen: list[int] = []
    jobs = [FileJob(wav, tmp_path / f"{i}.npy") for i in range(8)]
    with torch_threads(1):
        pass
    torch.set_num_threads(3)
    try:
        work = [
            threading.Thread(target=lambda: tiny_tokenizer.decode(codes)),
            threading.Thread(
                target=lambda: encode_files(tiny_tokenizer, jobs, done=lambda *_: None, threads=2)
            ),
        ]
        for thread in work:
            thread.start()
        for _ in range(40):
            watching = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            watching.start()
            watching.join()
        for thread in work:
            thread.join()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert set(seen) == {3}


def test_precision_is_put_back_when_the_last_thread_leaves() -> None:
    with medium_precision():
        first = guarded()
        second = guarded()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_float32_matmul_precision() == "highest"
        second.__exit__(None, None, None)
        assert torch.get_float32_matmul_precision() == "medium"


def test_a_precision_that_is_inherited_stays_inherited() -> None:
    with products(torch.backends, "bf16"):
        assert torch.backends.mkldnn.conv.fp32_precision == "bf16"
        with guarded():
            assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
        assert torch.backends.mkldnn.conv.fp32_precision == "bf16"
    assert torch.backends.mkldnn.conv.fp32_precision == "none"


def test_weights_are_drawn_as_after_a_seed_without_the_global_generator() -> None:
    torch.manual_seed(5)
    wanted = torch.nn.Conv1d(3, 4, 5).state_dict() | {"table": torch.randn(7)}
    before = (torch.random.get_rng_state(), random.getstate())
    with own_generator(5):
        made = torch.nn.Conv1d(3, 4, 5).state_dict() | {"table": torch.randn(7)}
    assert all(torch.equal(value, made[name]) for name, value in wanted.items())
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == random.getstate()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_is_torchs_by_a_generator_of_its_own(dtype: torch.dtype) -> None:
    x = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    torch.manual_seed(9)
    wanted = torch.nn.functional.dropout(x, 0.1)
    before = torch.random.get_rng_state()
    with dropout_generator(torch.Generator().manual_seed(9)):
        made = dropout(x, 0.1, training=True)
    assert torch.equal(made, wanted)
    slopes = [torch.autograd.grad(y.float().square().sum(), x)[0] for y in (made, wanted)]
    assert torch.equal(*slopes)
    assert torch.equal(before, torch.random.get_rng_state())
    assert dropout(x, 0.1, training=False) is x
