"""Published PyTorch checkpoints as variables of our networks, and back."""

from mmdiff_jax.convert.checkpoints import convert_checkpoint, publish_variables

__all__ = ["convert_checkpoint", "publish_variables"]
