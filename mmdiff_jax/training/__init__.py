"""Training: state, optimiser, sharded step, checkpoints and the loop."""
