"""The headphones' check: tones to be counted."""

import io
import wave

import numpy as np

from mmdiff_jax.media.writing import to_pcm16

_RATE = 16_000
_SECONDS, _TONE, _FIRST, _STEP = 6.0, 0.25, 0.5, 0.65
# As soft as the quiet parts of clips at -23 LUFS.
_AMPLITUDE = 0.03


def tones_wav(count: int) -> bytes:
  """A wav of some tones, equally long and large for any number to 8."""
  time = np.arange(round(_SECONDS * _RATE)) / _RATE
  audio = np.zeros_like(time)
  for number in range(count):
    local = time - (_FIRST + number * _STEP)
    # A sine's half as the envelope: no clicks at the ends.
    inside = (local >= 0) & (local < _TONE)
    envelope = np.sin(np.pi * local / _TONE) * inside
    pitch = 440 * 2 ** ((number * 5 % 12) / 12)
    audio += _AMPLITUDE * envelope * np.sin(2 * np.pi * pitch * local)
  file = io.BytesIO()
  with wave.open(file, "wb") as out:
    out.setnchannels(1)
    out.setsampwidth(2)
    out.setframerate(_RATE)
    out.writeframes(to_pcm16(audio).tobytes())
  return file.getvalue()
