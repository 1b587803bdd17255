"""The web pages' templates."""

import pathlib

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, select_autoescape

# Templates, and the files that pages load.
WEB = pathlib.Path(__file__).parent / "web"
# Compiled once; the pages of 200 raters who come at once cost it 200 times.
_TEMPLATES = Environment(
  loader=FileSystemLoader(WEB), autoescape=select_autoescape()
)


def page(request: Request, name: str, **values) -> HTMLResponse:
  """A page of a template, below the path that a proxy serves."""
  base = request.scope.get("root_path", "") + "/"
  html = _TEMPLATES.get_template(name).render(base=base, **values)
  return HTMLResponse(html)
