"""A text encoder without a network, for tests of what carries its vectors."""

import hashlib

import numpy as np


class TinyEncoder:
  """Four numbers that tell texts apart; counts what it is asked."""

  width, max_tokens, sha256 = 4, 12, "tiny"

  def __init__(self):
    self.encoded = []

  def count_tokens(self, texts):
    return [len(text.split()) + 2 for text in texts]

  def __call__(self, texts):
    self.encoded += texts
    return np.stack([vector_of(text) for text in texts])


def vector_of(text):
  """The vector of a text."""
  numbers = list(hashlib.sha256(text.encode()).digest()[:4])
  return np.array(numbers, np.float32) / 255
