"""The training loop, its stages, losses and checkpoints."""
