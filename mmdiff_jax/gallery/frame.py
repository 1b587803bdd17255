"""What all pages share: style, players, and a policy that lets nothing out."""

import base64
import functools
import hashlib
import html
import importlib.resources
import pathlib
import tempfile

import numpy as np

from mmdiff_jax.media import reading

# A player is this wide at most where the picture is smaller: larger pictures
# have their own size.
_PLAYER = 192
# Wider pictures are shown at a whole fraction of their size.
_WIDEST = 512
# Quality of clips inside a page: small; the originals are elsewhere.
_CRF = 20
_MP4 = (".mp4", "video/mp4")


@functools.cache
def asset(name: str) -> str:
  """The text of a file in `web/`."""
  return (importlib.resources.files(__package__) / "web" / name).read_text(
    encoding="utf-8"
  )


def document(
  title: str,
  body: str,
  *,
  style: str = "",
  script: str = "",
  files: bool = False,
  body_class: str = "",
) -> str:
  """A whole page, to which players and style are inside.

  Its Content Security Policy allows its own script by hash, pictures and
  media in data addresses, and nothing else: whatever a name holds, it neither
  runs nor reaches out.

  Args:
    title: as text.
    body: as HTML.
    style: CSS beyond that of all pages.
    script: JavaScript beyond that of the players.
    files: whether pictures and media may also be files beside the page.
    body_class: of the body element.
  """
  code = asset("player.js") + script
  digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
  media = "'self' data:" if files else "data:"
  policy = (
    f"default-src 'none'; img-src {media}; media-src {media}; style-src "
    f"'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
    "form-action 'none'"
  )
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n'
    f"<style>\n{asset('style.css')}{style}</style>\n</head>\n"
    f'<body class="{body_class}">\n{body}\n<script>{code}</script>\n'
    "</body>\n</html>\n"
  )


def shown_width(width: int) -> int:
  """CSS pixels of a picture: a whole multiple, or a whole part, of its own."""
  if width > _WIDEST:
    return width // -(-width // _WIDEST)
  return width * max(1, _PLAYER // width)


def player(
  source: str,
  name: str,
  video: np.ndarray | None,
  preload: str = "none",
) -> str:
  """A player as HTML; the script puts its controls below the picture.

  Args:
    source: address of the medium.
    name: what is played, in words.
    video: `[F, H, W, 3]` uint8, or None for a sound.
    preload: what the browser reads at once.
  """
  rest = (
    f'src="{html.escape(source)}" controls loop preload="{preload}" '
    f'aria-label="{html.escape(name)}"'
  )
  if video is None:
    return f'<div class="player"><audio {rest}></audio></div>'
  height, width = video.shape[1:3]
  shown = shown_width(width)
  enlarged = ' class="enlarged"' if shown > width else ""
  return (
    f'<div class="player" style="--shown:{shown}px"><video {rest} playsinline '
    f'width="{width}" height="{height}"{enlarged}></video></div>'
  )


def address(
  video: np.ndarray | None,
  audio: np.ndarray | None,
  fps: float | None,
  sample_rate: int | None,
) -> str:
  """A clip as a data address, so that nothing is fetched.

  Args:
    video: `[F, H, W, 3]` uint8, or None for a sound.
    audio: `[L, 1]` in [-1, 1], or None.
    fps: of the video.
    sample_rate: of the audio, Hz.
  """
  suffix, kind = (".wav", "audio/wav") if video is None else _MP4
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / f"clip{suffix}"
    if video is not None and fps is not None:
      reading.write_mp4(
        path, video, audio, fps=fps, sample_rate=sample_rate, crf=_CRF
      )
    elif audio is not None and sample_rate is not None:
      reading.write_wav(path, audio, sample_rate)
    data = base64.b64encode(path.read_bytes()).decode()
  return f"data:{kind};base64,{data}"
