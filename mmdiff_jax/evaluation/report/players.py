"""Clips inside a page: files as data addresses, so that nothing is fetched."""

import base64
import html
import pathlib
import tempfile

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.media_writer import write_mp4

# Quality of the clips in pages: small files; the originals are elsewhere.
_CRF = 20

# The browser runs no script, whatever a name may hold, and fetches nothing.
_POLICY = (
  "default-src 'none'; img-src data:; media-src data:; style-src "
  "'unsafe-inline'; base-uri 'none'; form-action 'none'"
)

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882;
  --accent: light-dark(#2456a6, #8ab4f8);
  --warn: light-dark(#a15c00, #ffb75e); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
.note { color: var(--warn); } .small { font-size: .85rem; opacity: .8; }
.clips { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: 9rem; } figcaption { font-size: .8rem;
  overflow-wrap: anywhere; }
video { width: 9rem; height: 9rem; background: #000; object-fit: contain;
  image-rendering: pixelated; }
.pair { display: flex; gap: .5rem; padding: .5rem; border-radius: .4rem;
  border: 1px solid var(--line); } .copy { border-color: var(--warn); }
svg { max-width: 100%; height: auto; } svg text { fill: currentColor;
  font: 12px system-ui, sans-serif; }
"""


def page(title: str, body: str) -> str:
  """A whole page that needs no other file and no network."""
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
    f"<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
  )


def figure(clip: dict[str, np.ndarray], spec: AVSpec, caption: str) -> str:
  """A player with the clip inside.

  Args:
    clip: `video` uint8 `[F, H, W, 3]` and `audio` `[L]`.
    spec: frame and sampling rate.
    caption: text below.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "clip.mp4"
    write_mp4(
      path,
      clip["video"],
      clip["audio"][:, None],
      fps=spec.fps,
      sample_rate=spec.sample_rate,
      crf=_CRF,
    )
    data = base64.b64encode(path.read_bytes()).decode()
  return (
    '<figure><video controls loop playsinline preload="metadata" '
    f'src="data:video/mp4;base64,{data}"></video>'
    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
  )
