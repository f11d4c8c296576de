"""The model file: one safetensors with its configuration, speaker table and history in the header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audiovq.config.speech import SpeechModelConfig
from audiovq.config.toml import dataclass_from_dict, dataclass_to_dict
from audiovq.errors import AudiovqError, suggest_name
from audiovq.io import JsonObject, tensorfile
from audiovq.speech.codes import CodeFormat

if TYPE_CHECKING:
    from audiovq.speech.model import WaveformModel

_KIND = tensorfile.ModelFileKind("audiovq-model", 2, "an audiovq model")
TRAINING_ONLY_TENSORS = (
    "codebook.ema_counts",
    "codebook.ema_sums",
    "codebook.num_restarts",
    "codebook.start",
    "conditioner.harmonics_head.",
)
"""State that only training needs."""
_MAY_DIFFER = (
    "voice_table.points",
    "codebook.vectors",
    "codebook.step_in_proj.weight",
    "codebook.step_in_proj.bias",
    "codebook.step_out_proj.weight",
    "codebook.step_out_proj.bias",
)
"""Tensors initialised afresh when training starts from a model of another shape."""


@dataclass(frozen=True)
class Speaker:
    """A trained speaker: number, name, sex (M, F or ""), minutes of training speech."""

    number: int
    name: str
    sex: str
    minutes: float


@dataclass(frozen=True)
class ModelHeader:
    """Header of a model file. `fingerprint`: 16 hex digits over configuration and tensors."""

    config: SpeechModelConfig
    speakers: tuple[Speaker, ...]
    training: JsonObject
    fingerprint: str

    @property
    def code_format(self) -> CodeFormat:
        """The form of the model's codes."""
        config = self.config
        return CodeFormat(
            config.code_hop,
            config.codebook.frames_per_step,
            config.codebook.size,
            config.codebook.levels,
            config.sample_rate,
            self.fingerprint,
        )


def find_speaker(speakers: Sequence[Speaker], speaker: str | int, model: str) -> Speaker:
    """The speaker of a name or a number. `model` is its name in the error.

    Raises: AudiovqError if there is none.
    """
    if isinstance(speaker, int):
        if 0 <= speaker < len(speakers):
            return speakers[speaker]
    else:
        for known in speakers:
            if known.name == speaker:
                return known
    names = [] if isinstance(speaker, int) else [known.name for known in speakers]
    hint = suggest_name(str(speaker), names, "`audiovq speakers` lists them")
    raise AudiovqError(f"{model}: no speaker {speaker!r} among its {len(speakers)}; {hint}")


def save_model(
    path: str | Path,
    model: WaveformModel,
    speakers: list[Speaker],
    training: JsonObject,
    force: bool = False,
) -> str:
    """Write a model. Returns: the fingerprint. Raises: AudiovqError as `tensorfile.save_tensors`."""
    header = {
        "config": dataclass_to_dict(model.config),
        "speakers": [asdict(s) for s in speakers],
        "training": training,
    }
    return tensorfile.save_tensors(path, model, header, _KIND, TRAINING_ONLY_TENSORS, force)


def read_header(path: str | Path) -> ModelHeader:
    """Read the header, without the weights and without torch, and unverified.

    Raises: AudiovqError if the file is missing, no audiovq model, damaged, or of another version.
    """
    return tensorfile.read_metadata(path, _KIND, _build_header)


def _build_header(tree: JsonObject) -> ModelHeader:
    return ModelHeader(
        dataclass_from_dict(SpeechModelConfig, tree["config"]),
        tuple(dataclass_from_dict(Speaker, row) for row in tree["speakers"]),
        tensorfile.check_training(tree["training"]),
        tensorfile.check_fingerprint(tree["fingerprint"]),
    )


def load_model(path: str | Path) -> tuple[WaveformModel, ModelHeader]:
    """Build the model of a file, in evaluation mode, fp32.

    Raises: AudiovqError as `read_header`, or if the file is not as it was written, or weights and
        configuration disagree.
    """
    from audiovq.nn.guard import own_generator
    from audiovq.nn.outline import outline
    from audiovq.speech.model import WaveformModel

    header, tensors = tensorfile.read_verified(path, _KIND, _build_header)

    def make() -> WaveformModel:
        return WaveformModel(header.config, len(header.speakers), untrained=False)

    tensorfile.require_fit(lambda: outline(make), tensors, path, _KIND, TRAINING_ONLY_TENSORS)
    with own_generator(0):
        model = make()
    tensorfile.load_tensors(model, tensors, path)
    return model, header


def load_weights(model: WaveformModel, path: str | Path) -> set[str]:
    """Copy a file's weights into a model to train on; what is not copied keeps its value.

    A voice table of other speakers and a codebook of other levels or steps are left out.

    Returns: the names copied. Raises: AudiovqError if any other tensor of the file does not fit the model.
    """
    header, tensors = tensorfile.read_verified(path, _KIND, _build_header)
    theirs = header.config.codebook
    own = model.config.codebook
    if (theirs.levels, theirs.frames_per_step) != (own.levels, own.frames_per_step):
        # Tables of the same shape mean something else where levels or steps are cut in another way.
        tensors = {name: value for name, value in tensors.items() if name not in _MAY_DIFFER[1:]}
    return tensorfile.copy_tensors(model, tensors, path, _MAY_DIFFER)


def describe_model(model: WaveformModel, header: ModelHeader, path: Path) -> dict[str, object]:
    """Facts of a model: rates, sizes, speakers, receptive field, fingerprint."""
    config = header.config
    return {
        "model": config.name,
        "fingerprint": header.fingerprint,
        "file_bytes": path.stat().st_size,
        "sample_rate_hz": config.sample_rate,
        "high_pass_hz": config.high_pass_hz,
        "frame_hop_samples": model.frame_hop,
        "hop_samples": model.code_hop,
        "codebook_size": config.codebook.size,
        "levels": config.codebook.levels,
        "steps_per_second": config.steps_per_second,
        "codes_per_second": config.steps_per_second * config.codebook.levels,
        "bits_per_second": config.bits_per_second(),
        "voice_bits": model.voice_encoder.bits if model.voice_encoder is not None else 0,
        "speakers": len(header.speakers),
        **tensorfile.count_parameters(model),
        **_look_ahead(model, config),
        "encoder_receptive_field_samples": model.encoder.receptive_field,
        "wavenet_receptive_field_samples": model.wavenet.receptive_field,
        "samples_per_step": model.wavenet.samples_per_step,
        "linear_prediction_order": model.wavenet.lpc_order,
        "spectral_head": model.spectral_head is not None,
        "hours_of_training_speech": round(float(header.training.get("hours", 0.0)), 2),
    }


def _look_ahead(model: WaveformModel, config: SpeechModelConfig) -> dict[str, float]:
    """Seconds of the recording that each part sees beyond the sound that it makes."""
    from audiovq.nn.stft import stft_reach_hops

    hop = model.frame_hop
    frames = model.conditioner.reach_frames + model.wavenet.reach_frames
    passes = config.corrections * stft_reach_hops(config.conditioner.window, hop)
    samples = {
        "encoder": model.encoder.reach_frames * hop + model.encoder.frontend.reach_samples[1],
        "code_step": model.code_hop - hop,
        "conditioner": frames * hop,
        "correction": passes * hop,
    }
    parts = {f"look_ahead_{name}_s": round(count / config.sample_rate, 3) for name, count in samples.items()}
    return {"look_ahead_s": round(sum(samples.values()) / config.sample_rate, 3), **parts}
