"""Metrics of generated audio-video clips."""

from mmdiff_jax.metric_networks import audioclip, i3d

__all__ = ["audioclip", "i3d"]
