"""Folders of samples for the tests of the gallery and its page."""

import json

from mmdiff_jax.av import AVSpec
from mmdiff_jax.disk.files import file_sha256
from mmdiff_jax.media import reading
from mmdiff_jax.world.clips import make_clip, split_seed

SPEC = AVSpec(16, 32, 32, 10.0, 4000)
LOSSES = [0.2, 0.1, 0.3]


def write_clip(path, number=0):
  """A clip of the sounding shapes as a file."""
  clip = make_clip(split_seed("tune", number), SPEC)
  rates = {"fps": SPEC.fps, "sample_rate": SPEC.sample_rate}
  reading.write_mp4(path, clip.video, clip.audio, **rates)
  return path


def make_run(directory, condition=None, source=None):
  """A folder as `sample` writes it, with awkward names and values."""
  entries = []
  for i, loss in enumerate(LOSSES):
    name = "sample_#2 & <b>.mp4" if i == 2 else f"sample_{i:06d}.mp4"
    write_clip(directory / name, i)
    entry = {"file": name, "seed": 7, "index": i, "loss": loss, "label": None}
    if source is not None:
      entry |= {
        "source": str(source),
        "source_sha256": file_sha256(source)[:16],
        "known": [condition],
        "repairs": [],
        "index": 1220202889 + i,
      }
    entries.append(entry)
  settings = {
    "seed": 7,
    "condition": condition,
    "checkpoint": "runs/shapes/checkpoints/10",
    "sample": {
      "sampler": "ddim",
      "steps": 50,
      "eta": None,
      "condition_method": "replacement",
    },
    "note": "</script>{{x}}",
  }
  (directory / "samples.json").write_text(
    json.dumps({"settings": settings, "samples": entries})
  )
  return directory
