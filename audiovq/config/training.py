"""Configuration of training, for models of every kind: stages and what they share, checked when built."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from audiovq.config.toml import require as _require


@dataclass(frozen=True)
class StageConfig:
    """One stage of training.

    stage: which one; steps: of `batch` crops of `seconds`.
    lr: learning rate of AdamW; muon_lr: of Muon, for hidden matrices (0: AdamW for all).
    warmup: steps; then constant, then linear decay over the last `lr_decay` share of the steps.
    ema_decay: of the averaged copy of the weights, which is what a stage leaves behind.
    weight_decay: of both optimizers; grad_clip: largest norm of the gradients.
    blend: share of the weights from before the stage in the mean that it leaves behind (arXiv 2109.01903).
        Of a short stage with another aim, the discriminator's, it keeps most of the gain at less of the cost.
    patience: end after so many held-out scores in a row that were no better, with the best weights; 0: never.
    quantize_after: step from which the codebook quantises.
    coarse_prob: share of crops that are decoded from a random smaller number of levels.
    jitter: the WaveNet's input noise, in mu-law codes.
    target_passes: passes of the spectral correction, with momentum .99, that move the recording towards the
        predicted spectra before spectral head or WaveNet are taught on it (0: the recording as it is).
    warp_prob: share of the codes stage's crops that the encoder hears at another pitch than that of target
        and voice, by up to `warp_octaves`, with formants moved by up to `warp_formants` octaves more.
    discriminator_lr: of the discriminator, where the weight "adversarial" is above 0; the model feels it
        after `discriminator_lead` steps.
    mixed_precision: products in bf16, on devices that are faster at it.
    weights: of loss terms by name.
    """

    stage: str = "codes"
    steps: int = 1000
    batch: int = 8
    seconds: float = 1.2
    lr: float = 1e-3
    muon_lr: float = 0.0
    warmup: int = 100
    lr_decay: float = 0.6
    ema_decay: float = 0.998
    blend: float = 0.0
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    patience: int = 0
    quantize_after: int = 150
    coarse_prob: float = 0.15
    jitter: float = 2.0
    target_passes: int = 0
    warp_prob: float = 0.4
    warp_octaves: float = 0.7
    warp_formants: float = 0.25
    discriminator_lr: float = 1e-3
    discriminator_lead: int = 150
    mixed_precision: bool = True
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            _require(getattr(self, name) >= 1, f"stage {self.stage}: {name} must be at least 1")
        for name in ("seconds", "lr", "grad_clip", "discriminator_lr"):
            _require(0 < getattr(self, name) < math.inf, f"stage {self.stage}: {name} must be positive")
        for name in (
            "muon_lr",
            "warmup",
            "weight_decay",
            "patience",
            "quantize_after",
            "jitter",
            "target_passes",
            "discriminator_lead",
            "warp_octaves",
            "warp_formants",
        ):
            _require(0 <= getattr(self, name) < math.inf, f"stage {self.stage}: {name} must not be negative")
        for name in ("lr_decay", "ema_decay", "blend", "coarse_prob", "warp_prob"):
            _require(0 <= getattr(self, name) <= 1, f"stage {self.stage}: {name} must lie in 0..1")


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    seed: of everything that is random. stages: in order. checkpoint_seconds: between checkpoints.
    speed: largest relative change of a crop's speed. level_db: standard deviation of its level, dB.
    disturb_prob: share of crops that the encoder hears with an offset, hum and low noise, which the decoder
        is not to bring back.
    train_splits, eval_split: of the corpus's manifest.
    listed_speakers: names that the model lists as its speakers, as patterns (`ls*`).
    """

    seed: int = 0
    stages: tuple[StageConfig, ...] = ()
    checkpoint_seconds: float = 180.0
    speed: float = 0.08
    level_db: float = 2.0
    disturb_prob: float = 0.0
    train_splits: tuple[str, ...] = ("train", "train-singles")
    eval_split: str = "eval-utts"
    listed_speakers: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        _require(self.seed >= 0, f"train.seed must not be negative, not {self.seed}")
        _require(0 <= self.speed < 0.5, f"train.speed must lie in [0, 0.5), not {self.speed}")
        _require(0 <= self.level_db <= 20, f"train.level_db must lie in 0..20 dB, not {self.level_db}")
        _require(0 <= self.disturb_prob <= 1, f"train.disturb_prob must lie in 0..1, not {self.disturb_prob}")

    def require_stages(self, known: tuple[str, ...]) -> None:
        """Raise AudiovqError if a stage has another name than these."""
        for stage in self.stages:
            _require(stage.stage in known, f"stage is one of {', '.join(known)}, not {stage.stage!r}")
