"""Clips and pictures as data addresses, for pages that fetch nothing."""

import base64
import io
import pathlib
import tempfile

import numpy as np

from mmdiff_jax.media import writing

# Quality of clips inside a page: small; the originals are elsewhere.
_CRF = 20
_JPEG_QUALITY = 90


def clip_address(
  video: np.ndarray | None,
  audio: np.ndarray | None,
  fps: float | None,
  sample_rate: int | None,
) -> str:
  """A clip as a data address.

  Args:
    video: `[F, H, W, 3]` uint8, or None for a sound.
    audio: `[L, 1]` in [-1, 1], or None.
    fps: of the video.
    sample_rate: of the audio, Hz.
  """
  kind, suffix = ("audio", "wav") if video is None else ("video", "mp4")
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / f"clip.{suffix}"
    if video is not None and fps is not None:
      writing.write_mp4(
        path, video, audio, fps=fps, sample_rate=sample_rate, crf=_CRF
      )
    elif audio is not None and sample_rate is not None:
      writing.write_wav(path, audio, sample_rate)
    return _address(f"{kind}/{suffix}", path.read_bytes())


def picture_address(image: np.ndarray) -> str:
  """A picture, uint8 `[H, W, 3]`, as a data address: JPEG."""
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(image).save(
    file, format="jpeg", quality=_JPEG_QUALITY, subsampling=0
  )
  return _address("image/jpeg", file.getvalue())


def _address(kind: str, data: bytes) -> str:
  return f"data:{kind};base64,{base64.b64encode(data).decode()}"
