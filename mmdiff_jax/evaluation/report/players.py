"""Pages of an evaluation, with clips inside: nothing is fetched."""

import html

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.gallery import frame

_STYLE = """
body { max-width: 68rem; }
table { width: 100%; }
th, td { padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; padding-right: 0;
  padding-left: .8rem; overflow-wrap: normal; }
td p { margin: 0; }
/* What is wider than a narrow screen scrolls in a box of its own. */
.scroll { overflow-x: auto; }
.scroll th, .scroll td { overflow-wrap: normal; min-width: 4.5rem; }
.clips { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .8rem; margin-top: .3rem; max-width: 192px; }
.pair { display: flex; flex-wrap: wrap; gap: .7rem; padding: .6rem;
  min-width: 0; border-radius: .4rem; border: 1px solid var(--line); }
.copy { border: 2px solid var(--warn); }
svg { display: block; width: 100%; overflow: visible; }
svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
.key span { margin-right: 1rem; white-space: nowrap; }
.key i { display: inline-block; width: .8em; height: .8em; opacity: .8;
  margin-right: .35em; }
"""


def page(title: str, body: str) -> str:
  """A whole page that needs no other file and no network."""
  heading = f"<header><h1>{html.escape(title)}</h1></header>"
  text = f"{heading}\n<main>\n{body}\n</main>"
  return frame.document(title, text, style=_STYLE)


def scrolling(table: str, name: str) -> str:
  """A table that may be wider than the screen, in a box that scrolls."""
  return (
    f'<div class="scroll" tabindex="0" role="region" '
    f'aria-label="{html.escape(name)}">{table}</div>'
  )


def figure(clip: dict[str, np.ndarray], spec: AVSpec, caption: str) -> str:
  """A player with the clip inside.

  Args:
    clip: `video` uint8 `[F, H, W, 3]` and `audio` `[L]`.
    spec: frame and sampling rate.
    caption: text below.
  """
  video, audio = clip["video"], clip["audio"][:, None]
  url = frame.address(video, audio, spec.fps, spec.sample_rate)
  player = frame.player(url, caption, video, preload="metadata")
  return (
    f"<figure>{player}<figcaption>{html.escape(caption)}</figcaption></figure>"
  )
