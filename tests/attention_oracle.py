"""Attention by its definition, and numbers to try it on."""

import numpy as np


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def softmax_attention(q, k, v):
  """One head at a time, straight from the definition, in float64."""
  out = np.empty(q.shape)
  for n, head in np.ndindex(q.shape[0], q.shape[2]):
    scores = q[n, :, head].astype(np.float64) @ k[n, :, head].T
    scores /= np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out[n, :, head] = weights / weights.sum(-1, keepdims=True) @ v[n, :, head]
  return out
