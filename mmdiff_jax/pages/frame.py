"""What all pages share: a style, and a policy that lets nothing out."""

import base64
import hashlib
import html
import importlib.resources
from collections.abc import Iterable, Sequence


def asset(room: str, name: str) -> str:
  """The text of a file in the `web/` folder of a package."""
  folder = importlib.resources.files(room) / "web"
  return (folder / name).read_text(encoding="utf-8")


def document(
  title: str,
  body: str,
  *,
  header: str = "",
  style: str = "",
  script: str = "",
  files: bool = False,
  body_class: str = "",
) -> str:
  """A whole page that carries its style and script.

  Its Content Security Policy allows its own script by hash, pictures and
  media in data addresses, and nothing else: whatever a name holds, it neither
  runs nor reaches out.

  Args:
    title: as text; the page's heading, too.
    body: as HTML.
    header: HTML below the heading.
    style: CSS beyond that of all pages.
    script: JavaScript; a page with players needs `players.script()`.
    files: whether pictures and media may also be files beside the page.
    body_class: of the body element.
  """
  media = "'self' data:" if files else "data:"
  policy = (
    f"default-src 'none'; img-src {media}; media-src {media}; style-src "
    "'unsafe-inline'; base-uri 'none'; form-action 'none'"
  )
  if script:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy += f"; script-src 'sha256-{digest}'"
    script = f"<script>{script}</script>\n"
  name = html.escape(title)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<link rel="icon" href="data:,">\n<title>{name}</title>\n'
    f"<style>\n{asset(__package__, 'style.css')}{style}</style>\n</head>\n"
    f'<body class="{body_class}">\n<header>\n<h1>{name}</h1>\n{header}\n'
    f"</header>\n<main>\n{body}\n</main>\n{script}</body>\n</html>\n"
  )


def paragraph(text: str, kind: str = "") -> str:
  """A paragraph of plain text; `kind` names its classes."""
  return f'<p class="{kind}">{html.escape(text)}</p>'


def legend(summary: str, rows: Iterable[Sequence[str]]) -> str:
  """How to read something: (term, text) or (term, text, class of a swatch)."""
  items = "".join(
    "<dt>"
    + "".join(f'<span class="swatch {kind}"></span>' for kind in swatch)
    + f"{html.escape(term)}</dt><dd>{html.escape(text)}</dd>"
    for term, text, *swatch in rows
  )
  return (
    f'<details class="legend" open><summary>{html.escape(summary)}</summary>'
    f"<dl>{items}</dl></details>"
  )


def scrolling(inner: str, name: str) -> str:
  """What may be wider than the screen, in a box that scrolls."""
  return (
    f'<div class="scroll" tabindex="0" role="region" '
    f'aria-label="{html.escape(name)}">{inner}</div>'
  )
