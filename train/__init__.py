"""Training: the launcher's entry point, the loop, checkpoints and evaluation."""
