"""Players of clips; their controls stand below the picture."""

import html

from mmdiff_jax.pages import frame

# A player is this wide at most where the picture is smaller: larger pictures
# have their own size.
_PLAYER = 192
# Wider pictures are shown at a whole fraction of their size.
_WIDEST = 512


def script() -> str:
  """The JavaScript of players."""
  return frame.asset(__package__, "player.js")


def shown_width(width: int) -> int:
  """CSS pixels of a picture: a whole multiple, or a whole part, of its own."""
  if width > _WIDEST:
    return width // -(-width // _WIDEST)
  return width * max(1, _PLAYER // width)


def player(
  source: str,
  name: str,
  size: tuple[int, int] | None,
  poster: str = "",
  preload: str = "none",
) -> str:
  """A player as HTML.

  Args:
    source: address of the medium.
    name: what is played, in words.
    size: height and width of the picture; None for a sound.
    poster: address of the picture shown before it is played.
    preload: what the browser reads at once.
  """
  rest = (
    f'src="{html.escape(source)}" controls loop preload="{preload}" '
    f'aria-label="{html.escape(name)}"'
  )
  if size is None:
    return f'<div class="player"><audio {rest}></audio></div>'
  height, width = size
  shown = shown_width(width)
  enlarged = ' class="enlarged"' if shown > width else ""
  return (
    f'<div class="player" style="--shown:{shown}px"><video {rest} playsinline '
    f'poster="{html.escape(poster)}" width="{width}" height="{height}"'
    f"{enlarged}></video></div>"
  )


def figure(player: str, caption: str) -> str:
  """A player with a line below it."""
  return (
    f"<figure>{player}<figcaption>{html.escape(caption)}</figcaption></figure>"
  )
