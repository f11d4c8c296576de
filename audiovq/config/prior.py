"""Configuration of a prior."""

from __future__ import annotations

from dataclasses import dataclass, field

from audiovq.config.speech import MOST_CHANNELS, MOST_DILATED_STEPS, MOST_LAYERS
from audiovq.config.toml import raise_unless, require_range
from audiovq.config.training import TrainConfig


@dataclass(frozen=True)
class PriorConfig:
    """A prior's network, and what training does to its inputs."""

    residual: int = 160  # channels R of the WaveNet
    skip: int = 320  # channels S of the WaveNet
    hidden: int = 160
    """Channels H of the network over the levels of a step; 0: logits straight from the WaveNet, which takes a
    model of one level."""
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32) * 2  # of the WaveNet, in code steps
    normalize: bool = True  # divide each layer's input by its root mean square
    dropout: float = 0.05  # share of activations
    voice_drop_prob: float = 0.25  # share of training crops without a voice
    voice_noise: float = 0.05  # standard deviation of the noise on the voices of the other crops

    def __post_init__(self) -> None:
        for name in ("residual", "skip"):
            require_range(f"prior.{name}", getattr(self, name), 1, MOST_CHANNELS)
        require_range("prior.hidden", self.hidden, 0, MOST_CHANNELS)
        raise_unless(
            min(self.dilations, default=0) >= 1, "prior.dilations must be one number or more, from 1 up"
        )
        raise_unless(
            len(self.dilations) <= MOST_LAYERS and sum(self.dilations) <= MOST_DILATED_STEPS,
            f"prior.dilations must be at most {MOST_LAYERS}, which add up to at most {MOST_DILATED_STEPS}",
        )
        for name in ("dropout", "voice_drop_prob"):
            raise_unless(0 <= getattr(self, name) < 1, f"prior.{name} must lie in [0, 1)")
        require_range("prior.voice_noise", self.voice_noise, 0, 100)


@dataclass(frozen=True)
class PriorTrainingConfig:
    """A prior and how to train it: `speeds` at which each recording is encoded, for more voices."""

    prior: PriorConfig = field(default_factory=PriorConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    speeds: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        self.train.require_stages(("prior",))
        raise_unless(bool(self.speeds), "speeds must name one or more, such as 1.0")
        raise_unless(all(0.5 <= s <= 2 for s in self.speeds), "speeds must lie in 0.5..2")
