"""Training: the trainer, stages, losses and checkpoints."""
