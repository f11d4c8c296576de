"""Configuration: one frozen dataclass for each thing that can be trained, checked when it is built.

A configuration file is TOML whose tables mirror these classes: `[model.encoder]` is an `EncoderConfig`,
`[[train.stages]]` are `StageConfig`s, in order, and so on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from audiovq.configfile import load_toml
from audiovq.configfile import require as _require

SAMPLE_RATE = 16_000
STAGES = ("end-to-end", "codes", "spectral", "wavenet")
"""Of a speech model."""


def _require_dilations(where: str, dilations: tuple[int, ...]) -> None:
    _require(min(dilations, default=1) >= 1, f"{where}.dilations must be at least 1, not {list(dilations)}")


@dataclass(frozen=True)
class EncoderConfig:
    """Front ("filterbank" or "strided"), hop in samples or strides, channels, dilations in frames."""

    front: str = "filterbank"
    hop: int = 128
    strides: tuple[int, ...] = ()
    kernel: int = 4
    channels: int = 192
    dilations: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        _require(
            self.front in ("filterbank", "strided"),
            f"encoder.front is 'filterbank' or 'strided', not {self.front!r}",
        )
        _require(8 <= self.hop <= 8192, f"encoder.hop must lie in 8..8192 samples, not {self.hop}")
        _require(self.channels >= 1, f"encoder.channels must be at least 1, not {self.channels}")
        _require(self.kernel >= 2, f"encoder.kernel must be at least 2, not {self.kernel}")
        _require_dilations("encoder", self.dilations)
        if self.front == "strided":
            _require(
                min(self.strides, default=0) >= 1 and math.prod(self.strides) == self.hop,
                f"encoder.strides {list(self.strides)} must multiply to encoder.hop {self.hop}",
            )


@dataclass(frozen=True)
class CodebookConfig:
    """K (`size`), code dimension, update rule ("average" or "gradient"), beta and revival."""

    size: int = 512
    dim: int = 12
    update: str = "average"
    decay: float = 0.99
    normalise: bool = True
    beta: float = 0.25
    revive_below: float = 0.25

    def __post_init__(self) -> None:
        _require(2 <= self.size <= 65536, f"codebook.size must lie in 2..65536, not {self.size}")
        _require(self.dim >= 1, "codebook.dim must be at least 1")
        _require(
            self.update in ("average", "gradient"),
            f"codebook.update is 'average' or 'gradient', not {self.update!r}",
        )
        _require(0 < self.decay < 1, "codebook.decay must lie between 0 and 1")
        _require(0 <= self.beta < math.inf, f"codebook.beta must not be negative, not {self.beta}")
        _require(
            0 <= self.revive_below < 1, f"codebook.revive_below must lie in [0, 1), not {self.revive_below}"
        )


@dataclass(frozen=True)
class VoiceConfig:
    """Voice space: `dims` values of `bits` bits; with or without a voice encoder; share of dropped voices."""

    encoder: bool = True
    dims: int = 16
    bits: int = 6
    channels: int = 96
    drop: float = 0.1

    def __post_init__(self) -> None:
        _require(self.dims >= 1, f"voice.dims must be at least 1, not {self.dims}")
        _require(1 <= self.bits <= 16, f"voice.bits must lie in 1..16, not {self.bits}")
        _require(self.channels >= 1, f"voice.channels must be at least 1, not {self.channels}")
        _require(0 <= self.drop <= 1, f"voice.drop must lie in 0..1, not {self.drop}")


@dataclass(frozen=True)
class ConditionerConfig:
    """Stack at code rate; `window` samples of its spectrum; low bins of the window twice as long."""

    channels: int = 256
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4)
    window: int = 512
    harmonic_bins: int = 160

    def __post_init__(self) -> None:
        _require(self.channels >= 1, f"conditioner.channels must be at least 1, not {self.channels}")
        _require_dilations("conditioner", self.dilations)
        _require(
            self.window >= 16 and self.window % 2 == 0,
            f"conditioner.window must be an even number of samples from 16 up, not {self.window}",
        )
        _require(
            1 <= self.harmonic_bins <= self.window,
            f"conditioner.harmonic_bins must lie in 1..{self.window} (the window), not {self.harmonic_bins}",
        )


@dataclass(frozen=True)
class SpectralConfig:
    """Spectral head behind `decode --fast`; off for the paper's configurations."""

    enabled: bool = True
    dilations: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        _require_dilations("spectral", self.dilations)


@dataclass(frozen=True)
class WaveNetConfig:
    """WaveNet decoder: `group` samples a step, channels, dilations in steps, linear prediction order."""

    group: int = 4
    residual: int = 64
    skip: int = 128
    hidden: int = 64
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 1, 2, 4, 8, 16, 32)
    lpc_order: int = 16
    pre_emphasis: float = 0.85
    adapt: int = 128

    def __post_init__(self) -> None:
        for name in ("group", "residual", "skip", "hidden", "adapt"):
            _require(
                getattr(self, name) >= 1, f"wavenet.{name} must be at least 1, not {getattr(self, name)}"
            )
        _require(len(self.dilations) >= 1, "wavenet.dilations must name at least one layer")
        _require_dilations("wavenet", self.dilations)
        _require(0 <= self.lpc_order <= 64, f"wavenet.lpc_order must lie in 0..64, not {self.lpc_order}")
        _require(0 <= self.pre_emphasis < 1, "wavenet.pre_emphasis must lie in [0, 1)")


@dataclass(frozen=True)
class ModelConfig:
    """The whole tokenizer.

    `corrections`: passes of the spectral correction (`generate.correction`). `makeup_db`: level added when
    decoding, in dB; losses on log spectra predict medians, which lie below the mean.
    """

    name: str = "default"
    corrections: int = 8
    makeup_db: float = 1.4
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    voice: VoiceConfig = field(default_factory=VoiceConfig)
    conditioner: ConditionerConfig = field(default_factory=ConditionerConfig)
    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    wavenet: WaveNetConfig = field(default_factory=WaveNetConfig)

    def __post_init__(self) -> None:
        hop = self.encoder.hop
        _require(
            hop % self.wavenet.group == 0,
            f"encoder.hop ({hop}) must be a multiple of wavenet.group ({self.wavenet.group})",
        )
        if self.spectral.enabled:
            _require(
                self.conditioner.window % (2 * hop) == 0,
                f"conditioner.window must be a multiple of twice the hop ({2 * hop})",
            )
        if self.corrections:
            _require(
                self.conditioner.window % hop == 0,
                f"conditioner.window must be a multiple of the hop ({hop}), or corrections be 0",
            )

    @property
    def codes_per_second(self) -> float:
        """Codes a second at 16 kHz."""
        return SAMPLE_RATE / self.encoder.hop

    @property
    def bits_per_second(self) -> float:
        """Nominal rate: codes a second times log2 K."""
        return self.codes_per_second * math.log2(self.codebook.size)


@dataclass(frozen=True)
class StageConfig:
    """One stage of training.

    `steps` batches of `batch` crops of `seconds`; learning rates of AdamW (`rate`) and of Muon for matrices
    (`matrix_rate`, 0: AdamW for all); `warmup` steps, then constant, then linear decay over the last
    `decay` share; `weight_decay` of both; with `patience` the stage ends after so many held-out scores in a
    row that were no better, and keeps its best weights; `weights` of loss terms. In the codes stage a share
    `warped` of the crops reaches the encoder with frequencies moved by up to `warp_octaves`; `jitter` is the
    WaveNet's input noise in mu-law codes; `mixed`: products in bf16, on devices that are faster at it.
    """

    stage: str = "codes"
    steps: int = 1000
    batch: int = 8
    seconds: float = 1.2
    rate: float = 1e-3
    matrix_rate: float = 0.0
    warmup: int = 100
    decay: float = 0.6
    average: float = 0.998
    weight_decay: float = 0.0
    clip: float = 1.0
    patience: int = 0
    unquantised: int = 150
    jitter: float = 2.0
    warped: float = 0.35
    warp_octaves: float = 0.5
    mixed: bool = True
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            _require(getattr(self, name) >= 1, f"stage {self.stage}: {name} must be at least 1")
        for name in ("seconds", "rate", "clip"):
            _require(0 < getattr(self, name) < math.inf, f"stage {self.stage}: {name} must be positive")
        for name in ("matrix_rate", "warmup", "weight_decay", "patience", "unquantised", "jitter"):
            _require(0 <= getattr(self, name) < math.inf, f"stage {self.stage}: {name} must not be negative")
        for name in ("decay", "average"):
            _require(0 <= getattr(self, name) <= 1, f"stage {self.stage}: {name} must lie in 0..1")


@dataclass(frozen=True)
class TrainConfig:
    """Stages in order, seed, augmentation, checkpoint interval in seconds."""

    seed: int = 0
    stages: tuple[StageConfig, ...] = ()
    checkpoint_seconds: float = 180.0
    speed: float = 0.08
    level_db: float = 2.0
    train_splits: tuple[str, ...] = ("train", "train-singles")
    eval_split: str = "eval-utts"

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"train.seed must not be negative, not {self.seed}")
        _require(0 <= self.speed < 0.5, f"train.speed must lie in [0, 0.5), not {self.speed}")
        _require(0 <= self.level_db <= 20, f"train.level_db must lie in 0..20 dB, not {self.level_db}")

    def require_stages(self, known: tuple[str, ...]) -> None:
        """Raise AudiovqError if a stage has another name than these."""
        for stage in self.stages:
            _require(stage.stage in known, f"stage is one of {', '.join(known)}, not {stage.stage!r}")


@dataclass(frozen=True)
class Config:
    """A model and how to train it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        self.train.require_stages(STAGES)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a TOML configuration of a speech model: see `configfile.load_toml`."""
    config: Config = load_toml(path, overrides, Config)
    return config
