"""MM-Diffusion: joint audio-video diffusion in JAX and Flax."""
