"""Tables of strings as Markdown, LaTeX and HTML."""

import dataclasses
import html
import re
from collections.abc import Sequence

from mmdiff_jax.pages import frame

_LATEX = {
  "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
  "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}", "–": "--", "±": r"$\pm$", "+-": r"$\pm$",
  "↓": r"$\downarrow$", "↑": r"$\uparrow$",
}  # fmt: skip
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))


@dataclasses.dataclass(frozen=True)
class Table:
  """A heading, the names of the columns, rows of as many cells, a note."""

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]
  note: str = ""

  def markdown(self) -> str:
    """A table of GitHub's Markdown below its heading."""
    lines = [f"## {self.title}", ""]
    for cells in (self.columns, ["---"] * len(self.columns), *self.rows):
      lines.append(
        "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
      )
    return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])

  def latex(self) -> str:
    """A table of LaTeX's booktabs."""

    def line(cells: Sequence[str]) -> str:
      return " & ".join(map(_escape, cells)) + r" \\"

    caption = _escape(f"{self.title}. {self.note}")
    return "\n".join([
      r"\begin{table}", r"\centering",
      r"\begin{tabular}{l" + "r" * (len(self.columns) - 1) + "}", r"\toprule",
      line(self.columns), r"\midrule", *map(line, self.rows), r"\bottomrule",
      r"\end{tabular}", rf"\caption{{{caption}}}",
      r"\end{table}", "",
    ])  # fmt: skip

  def html(self) -> str:
    """A table element in a box that scrolls; numbers stand on the right."""
    kinds = [
      ' class="number"' if all(map(_is_number, column)) else ""
      for column in zip(*self.rows, strict=True)
    ] or [""] * len(self.columns)

    def line(tag: str, cells: Sequence[str]) -> str:
      inner = "".join(
        f"<{tag}{kind}>{html.escape(cell)}</{tag}>"
        for cell, kind in zip(cells, kinds, strict=True)
      )
      return f"<tr>{inner}</tr>"

    body = "".join(line("td", row) for row in self.rows)
    head = line("th", self.columns)
    return frame.scrolling(
      f"<table><thead>{head}</thead><tbody>{body}</tbody></table>", self.title
    )


def _escape(text: str) -> str:
  return _SPECIAL.sub(lambda match: _LATEX[match[0]], text)


def _is_number(cell: str) -> bool:
  return bool(re.match(r"[-+]?[\d.]|[-–]$", cell))
