"""The model file: one safetensors with its configuration, speaker table and history in the header."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.config.speech import ModelConfig
from audiovq.config.toml import from_dict, to_dict
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.io.tensorfile import FileKind, not_one, pack, read_metadata, read_tensors, stored_tensors
from audiovq.speech.codes import CodeFormat

if TYPE_CHECKING:
    from audiovq.speech.model import WaveformModel

KIND = FileKind("audiovq-model", 2, "an audiovq model")
NOT_STORED = (
    "codebook.ema_counts",
    "codebook.ema_sums",
    "codebook.num_restarts",
    "codebook.start",
    "conditioner.harmonics_head.",
)
"""State that only training needs."""
MAY_DIFFER = (
    "voice_table.points",
    "codebook.vectors",
    "codebook.step_in_proj.weight",
    "codebook.step_in_proj.bias",
    "codebook.step_out_proj.weight",
    "codebook.step_out_proj.bias",
)
"""What training that starts from a model of another shape begins anew."""


@dataclass(frozen=True)
class Speaker:
    """A trained speaker: number, name, sex (M, F or ""), minutes of training speech."""

    number: int
    name: str
    sex: str
    minutes: float


@dataclass(frozen=True)
class ModelHeader:
    """What a model file says of itself. `fingerprint`: 16 hex digits over configuration and tensors."""

    config: ModelConfig
    speakers: tuple[Speaker, ...]
    training: dict[str, Any]
    fingerprint: str

    @property
    def code_format(self) -> CodeFormat:
        """What the model's codes are like."""
        config = self.config
        return CodeFormat(
            config.code_hop,
            config.codebook.frames_per_step,
            config.codebook.size,
            config.codebook.levels,
            config.sample_rate,
            self.fingerprint,
        )


def save_model(
    path: str | Path,
    model: WaveformModel,
    speakers: list[Speaker],
    training: dict[str, Any],
    force: bool = False,
) -> str:
    """Write a model, weights as float16 (half the size; what is loaded is what was scored).

    Returns: the fingerprint. Raises: AudiovqError if the file exists (without `force`) or cannot be written.
    """
    header = {
        "config": to_dict(model.config),
        "speakers": [asdict(s) for s in speakers],
        "training": training,
    }
    content, made = pack(stored_tensors(model, NOT_STORED), header, KIND)
    with PartialFile(path, force=force) as file:
        file.write(content)
    return made


def read_header(path: str | Path) -> ModelHeader:
    """Read what a model says of itself, without its weights and without torch.

    Raises: AudiovqError if the file is missing, no audiovq model, damaged, or of a newer version.
    """
    tree = read_metadata(path, KIND)
    try:
        speakers = tuple(Speaker(**s) for s in tree["speakers"])
        config = from_dict(ModelConfig, tree["config"])
        return ModelHeader(config, speakers, tree["training"], tree["fingerprint"])
    except (KeyError, TypeError):
        raise not_one(path, KIND) from None
    except AudiovqError as error:
        raise AudiovqError(f"{path}: {error}") from None


def load_model(path: str | Path) -> tuple[WaveformModel, ModelHeader]:
    """Build the model of a file, in evaluation mode, fp32.

    Raises: AudiovqError as `read_header`, or if weights and configuration disagree.
    """
    from audiovq.speech.model import WaveformModel

    header = read_header(path)
    model = WaveformModel(header.config, len(header.speakers))
    held = load_weights(model, path, exactly=True)
    missing = sorted(n for n in set(model.state_dict()) - held if not n.startswith(NOT_STORED))
    if missing:
        raise AudiovqError(f"{path}: lacks {missing[0]}, so it is damaged; use a file that training wrote")
    return model.eval(), header


def load_weights(model: WaveformModel, path: str | Path, exactly: bool = False) -> set[str]:
    """Copy a file's weights into a model of the same shape; what a file does not store keeps its value.

    Returns: the names that the model took. Raises: AudiovqError if the file holds tensors the model lacks, or
        of other shapes; but unless `exactly`, a voice table of other speakers and a codebook of other levels
        or steps are left out.
    """
    theirs = read_header(path).config.codebook
    own = model.config.codebook
    # Tables of the same shape mean something else where levels or steps are cut in another way.
    other_codes = (theirs.levels, theirs.frames_per_step) != (own.levels, own.frames_per_step)
    left_out = MAY_DIFFER[1:] if other_codes and not exactly else ()
    stored = read_tensors(path, KIND)
    state = model.state_dict()
    taken = set()
    for name, value in stored.items():
        if name in left_out:
            continue
        if name in state and state[name].shape == value.shape:
            state[name].copy_(value)
            taken.add(name)
        elif exactly or name not in MAY_DIFFER:
            raise AudiovqError(
                f"{path}: its {name} does not fit this configuration; use the one it was made with"
            )
    return taken


def describe(model: WaveformModel, header: ModelHeader, path: Path) -> dict[str, object]:
    """What a model is: rates, sizes, speakers, receptive field, fingerprint."""
    config = header.config
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
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
        "parameters": sum(parameters.values()),
        **{f"parameters_{name}": count for name, count in parameters.items()},
        **_look_ahead(model, config),
        "encoder_receptive_field_samples": model.encoder.receptive_field,
        "wavenet_receptive_field_samples": model.wavenet.receptive_field,
        "samples_per_step": model.wavenet.samples_per_step,
        "linear_prediction_order": model.wavenet.lpc_order,
        "spectral_head": model.spectral_head is not None,
        "hours_of_training_speech": round(float(header.training.get("hours", 0.0)), 2),
    }


def _look_ahead(model: WaveformModel, config: ModelConfig) -> dict[str, float]:
    """Seconds of the recording that each part sees beyond the sound that it makes."""
    from audiovq.nn.stft import pass_reach

    hop = model.frame_hop
    frames = model.conditioner.reach_frames + model.wavenet.reach_frames
    passes = config.corrections * pass_reach(config.conditioner.window, hop)
    samples = {
        "encoder": model.encoder.reach_frames * hop + model.encoder.frontend.reach_samples[1],
        "code_step": model.code_hop - hop,
        "conditioner": frames * hop,
        "correction": passes * hop,
    }
    parts = {f"look_ahead_{name}_s": round(count / config.sample_rate, 3) for name, count in samples.items()}
    return {"look_ahead_s": round(sum(samples.values()) / config.sample_rate, 3), **parts}
