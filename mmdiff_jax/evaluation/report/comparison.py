"""A comparison as JSON, Markdown, LaTeX and a self-contained page."""

import json
import os
import pathlib
from typing import Any

from mmdiff_jax.evaluation.report.page import (
  format_value,
  remarks,
  weights_line,
  write_page,
  write_text,
)
from mmdiff_jax.pages import frame, plots
from mmdiff_jax.pages.tables import Table

# A difference of more standard errors than this is marked.
_CLEAR = 2.0


def table(content: dict[str, Any]) -> Table:
  """One row per system, and what the signs mean.

  Each cell is a value with its standard error and, but for the first system,
  the difference to that; "*" marks one of more than two standard errors.
  """
  systems = content["systems"]
  names = list(systems[content["first"]]["metrics"])
  better = systems[content["first"]]["metrics"]
  arrows = {"lower": "↓", "higher": "↑"}
  extrapolated = [
    name
    for name in systems[content["first"]]["by_size"]
    if systems[content["first"]]["by_size"][name]
  ]
  columns = [
    *("clips", "n"),
    *(f"{name} {arrows[better[name]['better']]}" for name in names),
    *(f"{name}_inf" for name in extrapolated),
  ]
  rows = []
  for system, entry in systems.items():
    row = [system, str(entry["used"])]
    for name in names:
      metric = entry["metrics"][name]
      cell = format_value(metric["value"], metric["stderr"])
      change = entry.get("differences", {}).get(name)
      row.append(cell + (f" ({_change(change)})" if change else ""))
    for name in extrapolated:
      sizes = entry["by_size"].get(name)
      row.append(format_value(sizes["infinity"] if sizes else None))
    rows.append(row)
  return Table(_title(content), columns, rows, _explanation(content))


def _title(content: dict[str, Any]) -> str:
  return f"Comparison of {len(content['systems'])} sets of generated clips"


def _change(change: dict[str, Any]) -> str:
  value, error = change["value"], change["stderr"]
  if error is None:
    return f"{value:+.3g}"
  mark = "*" if abs(value) > _CLEAR * max(error, 1e-12) else ""
  return f"{value:+.3g} +- {error:.2g}{mark}"


def _explanation(content: dict[str, Any]) -> str:
  paired = [n for n, s in content["systems"].items() if s.get("paired")]
  pairs = (
    f"; of {', '.join(paired)} clips of one name are drawn together"
    if paired
    else ""
  )
  return (
    f"Against {content['real']['used']} real clips, protocol "
    f"{content['protocol']}, seed {content['seed']}. +-: standard error (a "
    f"tenth of the clips left out at a time). In brackets: difference to "
    f"{content['first']} and its standard error (bootstrap over clips{pairs}); "
    "*: more than two of them. _inf: extrapolated to infinitely many "
    "generated clips."
  )


def as_markdown(content: dict[str, Any]) -> str:
  """The table, what its signs mean, and which weights it rests on."""
  weights = [weights_line(k, info) for k, info in content["weights"].items()]
  return "\n".join([table(content).markdown(), *weights]) + "\n"


def write(output: str | os.PathLike, content: dict[str, Any]) -> None:
  """Writes the .json file and, beside it, .md, .tex and .html."""
  path = pathlib.Path(output)
  write_text(path.with_suffix(".json"), json.dumps(content, indent=2) + "\n")
  write_text(path.with_suffix(".md"), as_markdown(content))
  write_text(path.with_suffix(".tex"), table(content).latex())
  write_page(path.with_suffix(".html"), _title(content), _body(content))


def _body(content: dict[str, Any]) -> list[str]:
  shown = table(content)
  body = [shown.html(), frame.paragraph(shown.note, "small"), remarks(content)]
  if content["steps"]:
    body.append("<h2>Along the run</h2>" + _curves(content))
  body.append("<h2>Against the number of clips</h2>" + _by_size(content))
  return body


def _curves(content: dict[str, Any]) -> str:
  """One plot per metric: value and error against the step."""
  parts = []
  for name in content["systems"][content["first"]]["metrics"]:
    points = [
      (float(step), entry["value"], entry["stderr"] or 0.0)
      for system, step in content["steps"].items()
      if (entry := content["systems"][system]["metrics"][name])["value"]
      is not None
    ]
    if points:
      parts.append(plots.curves({name: points}, "step", name))
  return "".join(parts)


def _by_size(content: dict[str, Any]) -> str:
  """Frechet distances against 1/n, on to infinitely many clips."""
  parts = []
  for name in content["systems"][content["first"]]["by_size"]:
    series = {
      system: [(0.0, sizes["infinity"], 0.0)]
      + [
        (1 / n, value, 0.0)
        for n, value in zip(sizes["n"], sizes["value"], strict=True)
      ][::-1]
      for system, entry in content["systems"].items()
      if (sizes := entry["by_size"].get(name))
    }
    if series:
      parts.append(plots.curves(series, "1 / number of generated clips", name))
  return "".join(parts) or "<p>Too few clips.</p>"
