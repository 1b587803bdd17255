"""Sheets of the closest pairs of samples and training clips."""

import html
import os

import numpy as np

from mmdiff_jax.disk.files import as_path, replacing
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.evaluation.memorisation import Space
from mmdiff_jax.evaluation.report.page import clip_figure, write_page
from mmdiff_jax.media import lettering
from mmdiff_jax.pages import plots

# Pairs per space, frames per clip and height of a frame on the picture.
_PAIRS, _FRAMES, _HEIGHT = 8, 4, 64
_MARGIN, _LINE = 8, 16


def write(
  output: str | os.PathLike,
  spaces: dict[str, Space],
  fake: ClipSet,
  training: ClipSet,
) -> None:
  """Writes `<report>_memorisation.html` and `.png` beside the report.

  Args:
    output: path of report.json.
    spaces: results by space.
    fake: the samples.
    training: the training clips that `Space.index` counts.
  """
  path = as_path(output)
  base = path.with_name(f"{path.stem}_memorisation")
  closest = {
    name: np.argsort(space.ratio)[:_PAIRS] for name, space in spaces.items()
  }
  with replacing(base.with_suffix(".png")) as temporary:
    _picture(spaces, closest, fake, training).save(temporary, format="png")
  body = [_section(n, spaces[n], closest[n], fake, training) for n in spaces]
  title = "Closest pairs of samples and training clips"
  write_page(base.with_suffix(".html"), title, body)


def _section(
  name: str, space: Space, chosen: np.ndarray, fake: ClipSet, training: ClipSet
) -> str:
  """Plot and players of one space."""
  pairs = []
  for i in chosen:
    i, j = int(i), int(space.index[i])
    ratio = space.ratio[i]
    kind = "pair copy" if space.copies[i] else "pair"
    pairs.append(
      f'<div class="{kind}">'
      + clip_figure(
        fake.load(i), fake.spec, f"sample {fake.ids[i]}, ratio {ratio:.3f}"
      )
      + clip_figure(
        training.load(j), training.spec, f"training {training.ids[j]}"
      )
      + "</div>"
    )
  plot = plots.histograms(
    {"samples": space.ratio, "real clips": space.reference},
    f"ratio in {name} space",
    space.threshold,
  )
  return (
    f"<h2>{html.escape(name)}</h2><p>{space.copies.mean():.1%} of the samples "
    f"are copies (ratio below {space.threshold:.3f}, the dashed line).</p>"
    f'{plot}<div class="clips">{"".join(pairs)}</div>'
  )


def _picture(
  spaces: dict[str, Space],
  closest: dict[str, np.ndarray],
  fake: ClipSet,
  training: ClipSet,
):
  """The pairs as strips of frames: sample on the left, training clip right."""
  from PIL import Image, ImageDraw

  strip = _FRAMES * _HEIGHT * fake.spec.width // fake.spec.height
  width = 2 * strip + 3 * _MARGIN
  row = _HEIGHT + _LINE + _MARGIN
  rows = sum(len(chosen) + 1 for chosen in closest.values())
  image = Image.new("RGB", (width, rows * row + _MARGIN), "white")
  draw = ImageDraw.Draw(image)
  y = _MARGIN
  for name, space in spaces.items():
    title = (
      f"{name}: {space.copies.mean():.1%} copies, threshold "
      f"{space.threshold:.3f}; left samples, right nearest training clips"
    )
    lettering.write(draw, (_MARGIN, y + row // 2), title, "black")
    y += row
    for i in closest[name]:
      i, j = int(i), int(space.index[i])
      for x, clip in (
        (_MARGIN, fake.load(i, audio=False)),
        (strip + 2 * _MARGIN, training.load(j, audio=False)),
      ):
        image.paste(_strip(clip["video"], strip), (x, y))
      color = "#a15c00" if space.copies[i] else "black"
      text = f"{space.ratio[i]:.3f}  {fake.ids[i]}  |  {training.ids[j]}"
      lettering.write(draw, (_MARGIN, y + _HEIGHT), text, color)
      y += row
  return image


def _strip(video: np.ndarray, width: int):
  """A few frames side by side as a PIL image."""
  from PIL import Image

  chosen = np.linspace(0, len(video) - 1, _FRAMES).round().astype(int)
  frames = np.concatenate(list(video[chosen]), axis=1)
  return Image.fromarray(frames).resize((width, _HEIGHT))
