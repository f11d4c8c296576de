"""What training shows in TensorBoard: sound and spectrograms of the same few recordings, and numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from audiovq.config.speech import ConditionerConfig, SpectralHeadConfig
from audiovq.config.training import StageConfig
from audiovq.data.corpus import open_corpus
from audiovq.speech.model import WaveformModel
from audiovq.tokenizer import Tokenizer, load
from audiovq.training.metrics_log import MetricsLog
from audiovq.training.previews import _COUNT, _SECONDS, SpeechPreviews
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import train_speech_model
from helpers.models import DATA, tiny_config
from helpers.training import TWO_STAGES, metrics, same_model


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two speakers of two real recordings each, without a manifest."""
    for n, source in enumerate(sorted(DATA.glob("*.flac"))[:4]):
        target = tmp_path / "speech" / ("ann" if n % 2 else "bob") / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return tmp_path / "speech"


def board(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), {"audio": 0, "images": 0, "scalars": 0})
    return events.Reload()


def test_a_run_shows_the_same_recordings_in_each_stage(finished_run: Path) -> None:
    events = board(finished_run)
    tags = events.Tags()
    names = {tag.partition("/")[2] for tag in tags["images"]}
    assert len(names) == 1  # six recordings, of which one is held out
    for stage in ("codes", "wavenet"):
        for name in names:
            (shown,) = events.Audio(f"{stage}/{name}")
            assert shown.sample_rate == 16_000
            assert shown.length_frames == 187 * 128
            assert shown.encoded_audio_string[:4] == b"RIFF"
            (picture,) = events.Images(f"{stage}/{name}")
            assert (picture.width, picture.height) == (187, 2 * 257)
    assert {tag for tag in tags["audio"] if tag.startswith("original/")} == {f"original/{n}" for n in names}
    scalars = set(tags["scalars"])
    assert {"codes/mel", "codes/perplexity", "codes/used", "codes/held_bits_per_code"} <= scalars
    assert "wavenet/held_bits" in scalars
    (entropy,), (held,) = (events.Scalars(f"codes/held_{n}") for n in ("bits_per_code", "perplexity"))
    assert 2**entropy.value == pytest.approx(held.value, rel=1e-4)


def test_showing_changes_nothing(
    tmp_path: Path,
    training_corpus: Path,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a board nothing is made, and the run ends with the same bits."""
    monkeypatch.setattr(MetricsLog, "shows", property(lambda self: False))
    monkeypatch.setattr(SpeechPreviews, "make", None)
    (tmp_path / "two.toml").write_text(TWO_STAGES)
    train_speech_model(tmp_path / "two.toml", training_corpus, RunOptions(tmp_path / "run", threads=1))
    assert same_model(tmp_path / "run", finished_run)
    assert metrics(tmp_path / "run") == metrics(finished_run)


@pytest.mark.parametrize("stage", ["codes", "spectral", "wavenet"])
def test_examples_sound_like_their_originals(recordings: Path, stage: str) -> None:
    model = load().model
    examples = SpeechPreviews(open_corpus(recordings), ()).make(model, StageConfig(stage, 1))
    assert len(examples) == _COUNT
    assert {e.name.partition("/")[0] for e in examples[:2]} == {"ann", "bob"}
    for example in examples:
        samples = min(soundfile.info(recordings / example.name).frames, int(_SECONDS * 16_000)) // 128 * 128
        assert len(example.original) == len(example.made) == samples
        bins = example.picture.shape[0] // 2
        assert example.picture.shape == (2 * 257, samples // 128)
        above, below = (x.astype(float).flatten() for x in (example.picture[:bins], example.picture[bins:]))
        assert np.corrcoef(above, below)[0, 1] > 0.75
        assert example.picture.max() == 255


def test_the_papers_kind(paper_tokenizer: Tokenizer, recordings: Path) -> None:
    """No voice encoder, no spectral head, hop 64."""
    examples = SpeechPreviews(open_corpus(recordings), ()).make(
        paper_tokenizer.model, StageConfig("end-to-end", 1)
    )
    assert len(examples) == _COUNT
    assert all(np.isfinite(e.made).all() and e.made.any() for e in examples)


def test_spectra_that_make_no_sound_are_not_shown(recordings: Path) -> None:
    """Windows of 320 samples every 128: fine to learn codes by, but they do not add up to a signal."""
    conditioner = ConditionerConfig(channels=24, dilations=(1,), window=320, harmonic_bins=16)
    config = tiny_config(
        conditioner=conditioner, spectral_head=SpectralHeadConfig(enabled=False), corrections=0
    )
    model, examples = WaveformModel(config, 0).eval(), SpeechPreviews(open_corpus(recordings), ())
    assert examples.make(model, StageConfig("codes", 1)) == []
    assert len(examples.make(model, StageConfig("wavenet", 1))) == _COUNT


def test_unreadable_recordings_are_logged_and_replaced(
    recordings: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training_corpus = open_corpus(recordings)
    first = training_corpus.utterances[0].path
    (recordings / first).write_bytes(b"no sound")
    examples = SpeechPreviews(training_corpus, ()).make(load().model, StageConfig("spectral", 1))
    assert len(caplog.messages) == 1
    assert first in caplog.messages[0]
    assert len(examples) == _COUNT
    assert first not in {e.name for e in examples}


def test_the_random_numbers_of_training_are_left_alone(recordings: Path) -> None:
    model, examples = load().model, SpeechPreviews(open_corpus(recordings), ())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    examples.make(model, StageConfig("codes", 1))
    assert torch.equal(before, torch.get_rng_state())
