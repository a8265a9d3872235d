"""What a training run computes with: loop, steps, checkpoints and their records."""
