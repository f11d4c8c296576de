"""Training a speech model: what `audiovq train` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from audiovq.config.speech import SAMPLE_RATE, SpeechConfig, load_speech_config
from audiovq.config.toml import dataclass_to_dict
from audiovq.config.training import StageConfig
from audiovq.data.corpus import Corpus, open_corpus, read_speaker_sexes
from audiovq.data.crops import NO_AUGMENTATION, Augmentation, CropReader
from audiovq.data.sharding import SINGLE_SHARD, MicroBatch, Shard
from audiovq.distributed import rank_zero_first
from audiovq.errors import AudiovqError
from audiovq.nn.guard import own_generator
from audiovq.speech.model import WaveformModel
from audiovq.training.launch import launch_training, select_stages
from audiovq.training.metrics_log import PreviewExample
from audiovq.training.previews import SpeechPreviews
from audiovq.training.run_options import RunOptions
from audiovq.training.speech_stages import SpeechStage, make_speech_stage

_VOICE_SECONDS = 2.0
_VOICE_TABLE_SECONDS = 4.0
_VOICE_TABLE_RECORDINGS = 8


def train_speech_model(
    config_path: str | Path,
    data: str | Path,
    options: RunOptions,
    overrides: Sequence[str] = (),
    init: str | Path | None = None,
    stages: Sequence[str] = (),
) -> Path:
    """Train a model from a configuration; returns the path of the finished model.

    Args:
        config_path: TOML file or the name of a configuration that ships.
        data: corpus folder (`data.corpus.open_corpus`).
        overrides: `key=value` pairs on the configuration.
        init: model file whose weights training starts from.
        stages: names of the stages to run; none: all.

    Raises: AudiovqError for a bad configuration, corpus or checkpoint, or a full disk. KeyboardInterrupt (on
        SIGINT) or SystemExit (on SIGTERM) after the checkpoint is written.
    """
    config: SpeechConfig = load_speech_config(config_path, list(overrides))
    chosen = select_stages(config.train.stages, stages, config_path)
    config = SpeechConfig(config.model, dataclasses.replace(config.train, stages=chosen))

    def task(folder: Path) -> SpeechTask:
        with rank_zero_first():
            index = folder / "corpus.safetensors"
            corpus = open_corpus(data, index, high_pass_hz=config.model.high_pass_hz)
        return SpeechTask(config, corpus, init)

    return launch_training(options, task)


class SpeechTask:
    """A `WaveformModel` and its corpus, as a `training.trainer.TrainingTask`.

    Args:
        config: model and training.
        corpus: all splits.
        init: model to start from.

    Raises: AudiovqError if no recording is in the splits to train on, or `init` does not fit.
    """

    unit = "s of audio"
    file = "model.safetensors"

    def __init__(self, config: SpeechConfig, corpus: Corpus, init: str | Path | None = None) -> None:
        self.config = config
        self.train = config.train
        self.stages = config.train.stages
        self.corpus, self.held_out = corpus.divide(config.train.train_splits, config.train.eval_split)
        if not self.corpus.utterances:
            raise AudiovqError(
                f"{corpus.root}: no recordings in splits {', '.join(config.train.train_splits)}; "
                "set train.train_splits"
            )
        patterns = config.train.listed_speakers
        self.speakers = tuple(s for s in self.corpus.speakers if any(fnmatchcase(s, p) for p in patterns))
        self.identity = {"config": dataclass_to_dict(config), "speakers": list(self.speakers)}
        with own_generator(config.train.seed):
            self.model = WaveformModel(config.model, len(self.speakers))
        shown = self.held_out if self.held_out.utterances else self.corpus
        self._examples = SpeechPreviews(shown, self.speakers)
        self._sexes = read_speaker_sexes(corpus.root)
        self._check_voices()
        self.history: list[dict[str, Any]] = []
        if init is not None:
            from audiovq.speech.modelfile import load_weights, read_header

            taken = load_weights(self.model, init)
            if "codebook.vectors" in taken:
                self.model.codebook.restart_averages()
            self.history = read_header(init).training.get("stages", [])

    def amount(self, config: StageConfig) -> float:
        """Seconds of audio in one step."""
        return config.batch * config.seconds

    def stage(self, config: StageConfig) -> SpeechStage:
        """What a stage optimises."""
        return make_speech_stage(self.model, config)

    def reader(self, number: int, train: bool, shard: Shard = SINGLE_SHARD) -> CropReader | None:
        """Crops for a stage."""
        corpus = self.corpus if train else self.held_out
        if not corpus.utterances:
            return None
        config = self.stages[number]
        augmentation = NO_AUGMENTATION
        if train:
            # Warped crops do not fit their voice: they need a voice encoder, and codes that still change.
            warps = config.stage == "codes" and self.config.model.voice.encoder
            augmentation = Augmentation(
                speed=self.train.speed,
                level_db=self.train.level_db,
                disturb_prob=self.train.disturb_prob,
                warp_prob=config.warp_prob if warps else 0.0,
                warp_octaves=config.warp_octaves,
            )
        hop = self.config.model.code_hop
        samples = max(1, round(config.seconds * SAMPLE_RATE / hop)) * hop
        voice = round(_VOICE_SECONDS * SAMPLE_RATE / hop) * hop if self.config.model.voice.encoder else hop
        return CropReader(
            corpus,
            self.speakers,
            samples,
            voice,
            config.batch,
            seed=self.train.seed * 100 + number,
            shard=shard,
            high_pass_hz=self.config.model.high_pass_hz,
            augmentation=augmentation,
        )

    def examples(self, config: StageConfig) -> list[PreviewExample]:
        """A few held-out recordings (or others where none are held out) as the model makes them now."""
        return self._examples.make(self.model, config)

    def write(self, path: Path, done: list[dict[str, Any]], force: bool) -> None:
        """Write the model, with what it was trained on and for how long in its header."""
        from audiovq.speech.modelfile import Speaker, save_model

        seconds = self.corpus.speaker_seconds()
        table = [
            Speaker(number, name, self._sexes.get(name, ""), round(seconds[name] / 60, 2))
            for number, name in enumerate(self.speakers)
        ]
        self._fill_voice_table()
        stages = [{("audio_seconds" if k == "amount" else k): v for k, v in row.items()} for row in done]
        training = {
            "utterances": len(self.corpus.utterances),
            "hours": self.corpus.seconds / 3600,
            "stages": self.history + stages,
        }
        save_model(path, self.model, table, training=training, force=force)

    def _voice_reader(self, corpus: Corpus, name: str) -> CropReader:
        """Crops of the first recordings of a speaker, one each on average."""
        hop = self.model.frame_hop
        length = round(_VOICE_TABLE_SECONDS * SAMPLE_RATE / hop) * hop
        own = corpus.of_speaker(name)
        own = Corpus(own.root, own.utterances[:_VOICE_TABLE_RECORDINGS], (), own.decoded)
        high_pass_hz = self.config.model.high_pass_hz
        count = len(own.utterances)
        return CropReader(own, (name,), length, hop, count, seed=0, high_pass_hz=high_pass_hz)

    def _check_voices(self) -> None:
        """Find a speaker without readable recordings before all training, as its voice is computed after it.

        Raises: AudiovqError if there is one.
        """
        if self.model.voice_encoder is None:
            return
        for name in self.speakers:
            reader = self._voice_reader(self.corpus, name)
            try:
                reader.read_part(0, MicroBatch(0, 1, reader.batch))
            except AudiovqError as error:
                raise AudiovqError(
                    f"{self.corpus.root}: no recording of speaker {name} can be read; take the speaker out "
                    "of the corpus, or leave the name out of train.listed_speakers"
                ) from error
            finally:
                reader.close()

    @torch.no_grad()
    def _fill_voice_table(self) -> None:
        """Voice points of the trained speakers: the voice encoder's mean over some recordings of each."""
        encoder = self.model.voice_encoder
        if encoder is None:
            return
        self.model.eval()
        for number, name in enumerate(self.speakers):
            reader = self._voice_reader(Corpus(self.corpus.root, self.corpus.utterances), name)
            signal = reader.read(0).signal.to(self.model.voice_table.points.device)
            sums = encoder.pool(self.model.log_powers(signal))
            reader.close()
            point = encoder.point(*(v.sum((0, 1)).unsqueeze(0) for v in sums))
            self.model.voice_table.points[number + 1] = encoder.from_levels(encoder.to_levels(point))[0]


__all__ = ["SpeechTask", "train_speech_model"]
