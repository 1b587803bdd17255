"""Data on the host: records, decoding, the input pipeline. Knows no jax."""
