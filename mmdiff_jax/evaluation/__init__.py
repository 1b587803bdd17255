"""Metrics of generated audio-video clips and the networks behind them."""
