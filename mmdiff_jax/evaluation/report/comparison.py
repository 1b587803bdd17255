"""A comparison as JSON, Markdown, LaTeX and a self-contained page."""

import html
import json
import os
import pathlib
from typing import Any

from mmdiff_jax.disk.files import replacing
from mmdiff_jax.evaluation.report import players, plots
from mmdiff_jax.evaluation.report.page import format_value, weights_line

# A difference of more standard errors than this is marked.
_CLEAR = 2.0


def table(content: dict[str, Any]) -> list[list[str]]:
  """Rows of text: a header, then one row per system.

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
  rows = [
    ["clips", "n"]
    + [f"{name} {arrows[better[name]['better']]}" for name in names]
    + [f"{name}_inf" for name in extrapolated]
  ]
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
  return rows


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
  header, *rows = table(content)
  lines = [_row(header), "|" + "---|" * len(header), *map(_row, rows)]
  lines += ["", _explanation(content)]
  lines += [weights_line(k, info) for k, info in content["weights"].items()]
  return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
  return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_latex(content: dict[str, Any]) -> str:
  """The table as a tabular of booktabs."""
  header, *rows = table(content)
  lines = [
    f"\\begin{{tabular}}{{lr{'r' * (len(header) - 2)}}}",
    "\\toprule",
    " & ".join(map(_latex, header)) + " \\\\",
    "\\midrule",
    *(" & ".join(map(_latex, row)) + " \\\\" for row in rows),
    "\\bottomrule",
    "\\end{tabular}",
  ]
  return "\n".join(f"% {line}" for line in [_explanation(content)]) + (
    "\n" + "\n".join(lines) + "\n"
  )


_LATEX = {
  "\\": "\\textbackslash{}", "_": "\\_", "%": "\\%", "&": "\\&", "#": "\\#",
  "$": "\\$", "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}",
  "^": "\\textasciicircum{}", "↓": "$\\downarrow$", "↑": "$\\uparrow$",
}  # fmt: skip


def _latex(text: str) -> str:
  escaped = "".join(_LATEX.get(character, character) for character in text)
  return escaped.replace("+-", "$\\pm$")


def write(output: str | os.PathLike, content: dict[str, Any]) -> None:
  """Writes the .json file and, beside it, .md, .tex and .html."""
  path = pathlib.Path(output)
  for suffix, text in (
    (".json", json.dumps(content, indent=2) + "\n"),
    (".md", as_markdown(content)),
    (".tex", as_latex(content)),
    (".html", _page(content)),
  ):
    with replacing(path.with_suffix(suffix)) as temporary:
      pathlib.Path(temporary).write_text(
        text, encoding="utf-8", errors="backslashreplace"
      )


def _page(content: dict[str, Any]) -> str:
  header, *rows = table(content)
  cells = "".join(
    "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
    for row in rows
  )
  head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
  body = [
    players.scrolling(
      f"<table><tr>{head}</tr>{cells}</table>", "Metrics by system"
    ),
    f"<p class=small>{html.escape(_explanation(content))}</p>",
    *(
      f"<p class=small>{html.escape(weights_line(kind, info))}</p>"
      for kind, info in content["weights"].items()
    ),
    *(
      f'<p class="warning small">{html.escape(text)}</p>'
      for text in [*content["notes"], *content["warnings"]]
    ),
  ]
  if content["steps"]:
    body.append("<h2>Along the run</h2>" + _curves(content))
  body.append("<h2>Against the number of clips</h2>" + _by_size(content))
  count = len(content["systems"])
  return players.page(
    f"Comparison of {count} sets of generated clips", "\n".join(body)
  )


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
