"""Text on pictures in any script that an installed font has.

Pillow's own font has Latin letters alone. Others are found by fontconfig,
which nearly every desktop and server with fonts has; where it or the font is
missing, text is written in ASCII, so that it can still be read.
"""

import functools
import shutil
import subprocess
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from PIL import ImageDraw, ImageFont

_SIZE = 12
_TIMEOUT_S = 20


def write(
  draw: "ImageDraw.ImageDraw",
  place: tuple[float, float],
  text: str,
  color: str | tuple[int, int, int],
) -> None:
  """Writes a line of text.

  Args:
    draw: of the picture.
    place: of its left upper corner.
    text: of any characters; bytes that are not text are escaped.
    color: of the letters.
  """
  # Unpaired surrogates (undecodable bytes of file names) have no glyph.
  text = text.encode("utf-8", "backslashreplace").decode("utf-8")
  font = None if text.isascii() else _find_font("".join(sorted(set(text))))
  if font is None:
    text = to_ascii(text)
  draw.text(place, text, fill=color, font=font or _default_font())


def to_ascii(text: str) -> str:
  r"""Letters without their accents; what is left over as its `\u` escape."""
  parts = []
  for character in unicodedata.normalize("NFC", text):
    plain = unicodedata.normalize("NFKD", character)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = plain if plain.isascii() else character
    parts.append(plain.encode("ascii", "backslashreplace").decode())
  return "".join(parts)


@functools.cache
def _default_font() -> "ImageFont.ImageFont | ImageFont.FreeTypeFont":
  from PIL import ImageFont

  return ImageFont.load_default(_SIZE)


@functools.cache
def _find_font(characters: str) -> "ImageFont.FreeTypeFont | None":
  """A font that has all of some characters, or None."""
  from PIL import ImageFont

  program = shutil.which("fc-list")
  if program is None:
    return None
  wanted = " ".join(f"{ord(c):x}" for c in characters if c.isprintable())
  command = [program, f":charset={wanted}", "--format=%{file}\t%{index}\n"]
  try:
    listed = subprocess.run(
      command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
    ).stdout.splitlines()
  except (OSError, subprocess.SubprocessError):
    return None
  # Sans before serif and regular before bold, as far as names tell.
  for line in sorted(listed, key=_plainness):
    file, _, index = line.partition("\t")
    try:
      return ImageFont.truetype(file, _SIZE, int(index or 0))
    except (OSError, ValueError):
      continue
  return None


def _plainness(line: str) -> tuple[bool, bool, str]:
  name = line.lower()
  return "sans" not in name, "regular" not in name, name
