"""Configuration of training, for models of every kind: the stages and what they share, checked when built."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from audiovq.config.toml import raise_unless


@dataclass(frozen=True)
class StageConfig:
    """One stage of training."""

    stage: str = "codes"  # its name
    steps: int = 1000
    batch: int = 8  # crops in a step
    seconds: float = 1.2  # of a crop
    lr: float = 1e-3  # learning rate of AdamW
    muon_lr: float = 0.0  # learning rate of Muon, for hidden matrices; 0: AdamW for all
    warmup: int = 100  # steps until the learning rate is reached
    lr_decay: float = 0.6  # share of the steps, the last ones, over which the rate falls linearly to 0
    ema_decay: float = 0.998  # of the averaged copy of the weights, which is the result of the stage
    blend: float = 0.0
    """Share of the weights from before the stage in the mean that is its result (arXiv 2109.01903). For a
    short stage with another aim, the discriminator's, it keeps most of the gain at less of the cost."""
    weight_decay: float = 0.0  # of both optimizers
    grad_clip: float = 1.0  # largest norm of the gradients
    patience: int = 0
    """End after so many held-out scores in a row that were no better, with the best weights; 0: never."""
    quantize_after: int = 150  # step from which the codebook quantises
    coarse_prob: float = 0.15  # share of crops decoded from a random smaller number of levels
    jitter: float = 2.0  # input noise of the WaveNet, in mu-law codes
    target_passes: int = 0
    """Passes of the spectral correction, with momentum .99, that move the recording towards the predicted
    spectra before spectral head or WaveNet are trained on it; 0: the recording itself."""
    warp_prob: float = 0.4
    """Share of the codes stage's crops that the encoder hears at another pitch than target and voice have."""
    warp_octaves: float = 0.7  # largest change of their pitch
    discriminator_lr: float = 1e-3  # of the discriminator, where the weight "adversarial" is above 0
    discriminator_lead: int = 150  # steps until the model is trained against the discriminator
    mixed_precision: bool = True  # products in bf16, on devices that are faster at it
    weights: dict[str, float] = field(default_factory=dict)  # of loss terms by name

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            raise_unless(getattr(self, name) >= 1, f"stage {self.stage}: {name} must be at least 1")
        for name in ("seconds", "lr", "grad_clip", "discriminator_lr"):
            raise_unless(0 < getattr(self, name) < math.inf, f"stage {self.stage}: {name} must be positive")
        raise_unless(self.batch <= 1 << 16, f"stage {self.stage}: batch must be at most 65536")
        raise_unless(self.seconds <= 3600, f"stage {self.stage}: seconds must be at most 3600")
        counts = ("warmup", "patience", "quantize_after", "target_passes", "discriminator_lead")
        sizes = ("muon_lr", "weight_decay", "jitter", "warp_octaves")
        for name in (*counts, *sizes):
            raise_unless(
                0 <= getattr(self, name) < math.inf, f"stage {self.stage}: {name} must not be negative"
            )
        for name, weight in self.weights.items():
            raise_unless(math.isfinite(weight), f"stage {self.stage}: the weight of {name} must be a number")
        for name in ("lr_decay", "ema_decay", "blend", "coarse_prob", "warp_prob"):
            raise_unless(0 <= getattr(self, name) <= 1, f"stage {self.stage}: {name} must lie in 0..1")


@dataclass(frozen=True)
class TrainConfig:
    """What all stages share."""

    seed: int = 0
    stages: tuple[StageConfig, ...] = ()  # in order
    checkpoint_seconds: float = 180.0  # between checkpoints
    speed: float = 0.08  # largest relative change of a crop's speed
    level_db: float = 2.0  # standard deviation of a crop's level, dB
    disturb_prob: float = 0.0
    """Share of crops that the encoder hears with an offset, hum and low noise, which the decoder must leave
    out."""
    train_splits: tuple[str, ...] = ("train", "train-singles")  # of the corpus's manifest
    eval_split: str = "eval-utts"  # held-out recordings, of the corpus's manifest
    listed_speakers: tuple[str, ...] = ("*",)  # patterns of the names that the model lists as its speakers

    def __post_init__(self) -> None:
        raise_unless(self.seed >= 0, f"train.seed must not be negative, not {self.seed}")
        raise_unless(
            0 <= self.checkpoint_seconds < math.inf,
            f"train.checkpoint_seconds must not be negative, not {self.checkpoint_seconds}",
        )
        raise_unless(0 <= self.speed < 0.5, f"train.speed must lie in [0, 0.5), not {self.speed}")
        raise_unless(0 <= self.level_db <= 20, f"train.level_db must lie in 0..20 dB, not {self.level_db}")
        raise_unless(
            0 <= self.disturb_prob <= 1, f"train.disturb_prob must lie in 0..1, not {self.disturb_prob}"
        )

    def require_stages(self, known: tuple[str, ...]) -> None:
        """Raise AudiovqError if a stage has another name than these."""
        for stage in self.stages:
            raise_unless(stage.stage in known, f"stage is one of {', '.join(known)}, not {stage.stage!r}")
