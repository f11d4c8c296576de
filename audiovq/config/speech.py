"""Configuration of a speech model: one frozen dataclass for each part, checked when it is built.

A configuration file is TOML whose tables mirror these classes: `[model.encoder]` is an `EncoderConfig`,
`[[train.stages]]` are `StageConfig`s, in order, and so on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from audiovq.config.toml import load_toml, raise_unless, require_range
from audiovq.config.training import StageConfig, TrainConfig
from audiovq.errors import shorten

__all__ = ["SpeechConfig", "SpeechModelConfig", "StageConfig", "TrainConfig", "load_speech_config"]

SAMPLE_RATE = 16_000
MOST_LAYERS = 256
"""Of a stack."""
MOST_DILATED_FRAMES = 4096
"""Sum of the dilations of a stack at frame rate: half a minute at 128 samples a frame."""
MOST_DILATED_STEPS = 1 << 16
"""Sum of the dilations of a WaveNet."""
MOST_CHANNELS = 1 << 16
_STAGES = ("end-to-end", "codes", "spectral", "wavenet")
"""Stages of a speech model."""


def _require_dilations(where: str, dilations: tuple[int, ...], most: int = MOST_DILATED_FRAMES) -> None:
    raise_unless(
        min(dilations, default=1) >= 1,
        f"{where}.dilations must be at least 1, not {shorten(list(dilations))}",
    )
    raise_unless(
        len(dilations) <= MOST_LAYERS and sum(dilations) <= most,
        f"{where}.dilations must be at most {MOST_LAYERS}, which add up to at most {most}",
    )


@dataclass(frozen=True)
class EncoderConfig:
    """Front end and residual stack: see `speech.encoder.Encoder`."""

    frontend: str = "filterbank"  # or "strided"
    hop: int = 128  # samples
    strides: tuple[int, ...] = ()  # of the strided front end; their product is the hop
    kernel: int = 4  # taps of its convolutions
    channels: int = 192
    dilations: tuple[int, ...] = (1, 2, 4, 8)  # in frames

    def __post_init__(self) -> None:
        raise_unless(
            self.frontend in ("filterbank", "strided"),
            f"encoder.frontend is 'filterbank' or 'strided', not {self.frontend!r}",
        )
        raise_unless(8 <= self.hop <= 8192, f"encoder.hop must lie in 8..8192 samples, not {self.hop}")
        require_range("encoder.channels", self.channels, 1, MOST_CHANNELS)
        require_range("encoder.kernel", self.kernel, 2, 4096)
        _require_dilations("encoder", self.dilations)
        if self.frontend == "strided":
            raise_unless(
                len(self.strides) <= MOST_LAYERS
                and min(self.strides, default=0) >= 1
                and math.prod(self.strides) == self.hop,
                f"encoder.strides {shorten(list(self.strides))} must multiply to encoder.hop {self.hop}",
            )


@dataclass(frozen=True)
class CodebookConfig:
    """Quantisation: see `nn.codebook.Codebook`."""

    size: int = 512  # K, vectors of a level
    levels: int = 1  # L, residual levels; the table has L x K rows
    frames_per_step: int = 1  # s, encoder frames that one code step covers
    dim: int = 12  # channels of a frame's projection; a vector of the table has s x dim
    update: str = "ema"  # or "gradient"
    ema_decay: float = 0.99  # gamma of the moving average
    normalize: bool = True  # project frames onto the unit sphere
    beta: float = 0.25  # weight of the commitment term
    dead_code_threshold: float = 0.25  # share of a level's mean count below which a code is restarted

    def __post_init__(self) -> None:
        raise_unless(2 <= self.size <= 65536, f"codebook.size must lie in 2..65536, not {self.size}")
        raise_unless(self.levels >= 1, f"codebook.levels must be at least 1, not {self.levels}")
        raise_unless(
            self.levels * self.size <= 65536,
            f"codebook.levels x codebook.size must be at most 65536, not {self.levels * self.size}",
        )
        raise_unless(
            self.frames_per_step in (1, 2, 4),
            f"codebook.frames_per_step must be 1, 2 or 4, not {self.frames_per_step}",
        )
        require_range("codebook.dim", self.dim, 1, MOST_CHANNELS)
        raise_unless(
            self.update in ("ema", "gradient"),
            f"codebook.update is 'ema' or 'gradient', not {self.update!r}",
        )
        raise_unless(0 < self.ema_decay < 1, "codebook.ema_decay must lie between 0 and 1")
        raise_unless(0 <= self.beta < math.inf, f"codebook.beta must not be negative, not {self.beta}")
        raise_unless(
            0 <= self.dead_code_threshold < 1,
            f"codebook.dead_code_threshold must lie in [0, 1), not {self.dead_code_threshold}",
        )

    @property
    def rows(self) -> int:
        """Rows of the table, L x K: how many different values a code file can hold."""
        return self.levels * self.size


@dataclass(frozen=True)
class VoiceConfig:
    """Voice space: `dims` values of `bits` bits; with or without a voice encoder; share of dropped voices."""

    encoder: bool = True
    dims: int = 16
    bits: int = 6
    channels: int = 96
    drop_prob: float = 0.1

    def __post_init__(self) -> None:
        require_range("voice.dims", self.dims, 1, 4096)
        raise_unless(1 <= self.bits <= 16, f"voice.bits must lie in 1..16, not {self.bits}")
        require_range("voice.channels", self.channels, 1, MOST_CHANNELS)
        raise_unless(0 <= self.drop_prob <= 1, f"voice.drop_prob must lie in 0..1, not {self.drop_prob}")


@dataclass(frozen=True)
class ConditionerConfig:
    """Stack at frame rate; `window` samples of its spectrum; low bins of the window twice as long."""

    channels: int = 256
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4)
    window: int = 512
    harmonic_bins: int = 160

    def __post_init__(self) -> None:
        require_range("conditioner.channels", self.channels, 1, MOST_CHANNELS)
        _require_dilations("conditioner", self.dilations)
        raise_unless(
            16 <= self.window <= MOST_CHANNELS and self.window % 2 == 0,
            f"conditioner.window must be an even number from 16 to {MOST_CHANNELS}, not {self.window}",
        )
        raise_unless(
            1 <= self.harmonic_bins <= self.window,
            f"conditioner.harmonic_bins must lie in 1..{self.window} (the window), not {self.harmonic_bins}",
        )


@dataclass(frozen=True)
class SpectralHeadConfig:
    """Spectral head behind `decode --fast`; off for the paper's configurations."""

    enabled: bool = True
    dilations: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        _require_dilations("spectral_head", self.dilations)


@dataclass(frozen=True)
class WaveNetConfig:
    """WaveNet decoder: see `speech.decoder.WaveNetDecoder`."""

    samples_per_step: int = 4
    residual: int = 64  # channels R between layers
    skip: int = 128  # channels S of the output of the layers
    hidden: int = 64  # channels of the head
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 1, 2, 4, 8, 16, 32)  # in steps
    lpc_order: int = 16  # of linear prediction; 0: none
    pre_emphasis: float = 0.85
    cond_channels: int = 128

    def __post_init__(self) -> None:
        for name in ("samples_per_step", "residual", "skip", "hidden", "cond_channels"):
            require_range(f"wavenet.{name}", getattr(self, name), 1, MOST_CHANNELS)
        raise_unless(len(self.dilations) >= 1, "wavenet.dilations must name at least one layer")
        _require_dilations("wavenet", self.dilations, MOST_DILATED_STEPS)
        raise_unless(0 <= self.lpc_order <= 64, f"wavenet.lpc_order must lie in 0..64, not {self.lpc_order}")
        raise_unless(0 <= self.pre_emphasis < 1, "wavenet.pre_emphasis must lie in [0, 1)")


@dataclass(frozen=True)
class SpeechModelConfig:
    """The whole tokenizer."""

    name: str = "default"
    sample_rate: int = SAMPLE_RATE  # that the model works at, Hz; so far 16,000 alone
    high_pass_hz: float = 0.0  # cut-off of the high-pass before loudness meter and encoder; 0: none
    corrections: int = 8  # passes of the spectral correction
    correction_momentum: float = 0.0
    output_gain_db: float = 1.4
    """Level added when decoding, dB; losses on log spectra predict medians, which lie below the mean."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    voice: VoiceConfig = field(default_factory=VoiceConfig)
    conditioner: ConditionerConfig = field(default_factory=ConditionerConfig)
    spectral_head: SpectralHeadConfig = field(default_factory=SpectralHeadConfig)
    wavenet: WaveNetConfig = field(default_factory=WaveNetConfig)

    def __post_init__(self) -> None:
        hop = self.encoder.hop
        raise_unless(
            self.sample_rate == SAMPLE_RATE,
            f"sample_rate must be {SAMPLE_RATE} Hz, not {self.sample_rate}",
        )
        raise_unless(
            0 <= self.high_pass_hz <= 200, f"high_pass_hz must lie in 0..200 Hz, not {self.high_pass_hz}"
        )
        raise_unless(
            0 <= self.corrections <= 1000, f"corrections must lie in 0..1000, not {self.corrections}"
        )
        raise_unless(
            0 <= self.correction_momentum < 1,
            f"correction_momentum must lie in [0, 1), not {self.correction_momentum}",
        )
        require_range("output_gain_db", self.output_gain_db, -60, 60)
        raise_unless(
            hop % self.wavenet.samples_per_step == 0,
            f"encoder.hop ({hop}) must be a multiple of wavenet.samples_per_step "
            f"({self.wavenet.samples_per_step})",
        )
        if self.spectral_head.enabled:
            raise_unless(
                self.conditioner.window % (2 * hop) == 0,
                f"conditioner.window must be a multiple of twice the hop ({2 * hop})",
            )
        if self.corrections:
            raise_unless(
                self.conditioner.window % hop == 0,
                f"conditioner.window must be a multiple of the hop ({hop}), or corrections be 0",
            )

    @property
    def code_hop(self) -> int:
        """Samples at the model's rate that one code step covers."""
        return self.encoder.hop * self.codebook.frames_per_step

    @property
    def steps_per_second(self) -> float:
        """Code steps a second; each has as many codes as there are levels."""
        return self.sample_rate / self.code_hop

    def bits_per_second(self, levels: int | None = None) -> float:
        """Nominal rate of some levels (None: all): codes a second times log2 K."""
        count = self.codebook.levels if levels is None else levels
        return self.steps_per_second * count * math.log2(self.codebook.size)


@dataclass(frozen=True)
class SpeechConfig:
    """A model and how to train it."""

    model: SpeechModelConfig = field(default_factory=SpeechModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        self.train.require_stages(_STAGES)
        even = self.model.conditioner.window % self.model.encoder.hop == 0
        for stage in self.train.stages:
            raise_unless(
                even or not stage.target_passes,
                f"stage {stage.stage}: target_passes needs a conditioner.window that is a multiple of the "
                f"hop ({self.model.encoder.hop})",
            )


def load_speech_config(path: str | Path, overrides: list[str] | None = None) -> SpeechConfig:
    """Read a TOML configuration of a speech model: see `config.toml.load_toml`."""
    return load_toml(path, overrides, SpeechConfig)
