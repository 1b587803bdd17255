"""Clips of the sounding-shapes world, made when they are asked for."""

import functools
import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.descriptions import InputInfo, TextEncoder
from mmdiff_jax.world import captions
from mmdiff_jax.world import clips as world


class SyntheticSource:
  """The training split of the world, a clip per video; clip i depends on i.

  A clip's "label" is `world.clips.Clip.label`; its captions follow from its
  truth.
  """

  name = "synthetic"
  skipped = ()

  def __init__(
    self,
    spec: AVSpec,
    count: int,
    open_encoder: Callable[[], TextEncoder] | None = None,
  ):
    """Offers `count` clips of `spec`.

    Args:
      spec: geometry of the clips.
      count: their number.
      open_encoder: opens the text encoder, where vectors of captions are
        wanted.
    """
    self.spec = spec
    classes = tuple(" ".join(pair) for pair in world.CLASSES)
    self.inputs = {"label": InputInfo((), classes)}
    self._vectors: dict[str, np.ndarray] = {}
    if open_encoder is not None:
      encoder, texts = open_encoder(), captions.all_captions()
      self._vectors = dict(zip(texts, encoder(texts), strict=True))
      self.inputs["text"] = InputInfo((encoder.width,), encoder=encoder.sha256)
    self.videos = {f"synthetic/{i:08d}": spec.frames for i in range(count)}

  def where(self, video: str) -> str:
    """See `base.Source`."""
    return video

  def clip(self, video: str, start: int) -> "SyntheticClip":
    """See `base.Source`."""
    assert start == 0, "A video of the world is one clip."
    return SyntheticClip(video, self.spec, self._vectors)

  def digest(self, video: str, start: int) -> str:
    """See `base.Source`: of the content, which follows the world's rules."""
    clip = self.clip(video, start)
    content = hashlib.sha256(clip.video().tobytes())
    content.update(clip.audio().tobytes())
    return content.hexdigest()

  def __repr__(self) -> str:
    return f"SyntheticSource({len(self.videos)} clips)"


class SyntheticClip:
  """A clip that is rendered once, when it is first asked for anything."""

  def __init__(
    self, video: str, spec: AVSpec, vectors: Mapping[str, np.ndarray]
  ):
    """Names the clip.

    Args:
      video: a name of `SyntheticSource.videos`.
      spec: geometry of the clip.
      vectors: of all captions, or none.
    """
    self._video, self._spec, self._vectors = video, spec, vectors

  @functools.cached_property
  def _made(self) -> world.WorldClip:
    number = int(self._video.rpartition("/")[2])
    return world.make_clip(world.split_seed("train", number), self._spec)

  def video(self) -> np.ndarray:
    """See `base.Clip`."""
    return self._made.video

  def frame(self, index: int) -> np.ndarray:
    """See `base.Clip`."""
    return self._made.video[index]

  def audio(self) -> np.ndarray:
    """See `base.Clip`."""
    return self._made.audio

  def inputs(self) -> dict[str, np.ndarray]:
    """See `base.Clip`."""
    inputs = {"label": np.array(self._made.label, np.int32)}
    if self._vectors:
      rows = [self._vectors[caption] for caption in self.captions()]
      inputs["text"] = np.stack(rows)
    return inputs

  def captions(self) -> tuple[str, ...]:
    """See `base.Clip`."""
    return self._made.captions()

  def origin(self) -> str:
    """See `base.Clip`."""
    return self._video

  def repairs(self) -> tuple[str, ...]:
    """See `base.Clip`."""
    return ()
