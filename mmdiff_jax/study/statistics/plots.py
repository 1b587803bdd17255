"""The report's plots, as inline SVG.

Horizontal places are percentages, and names stand above what they name: so
that plots fill any width, a telephone's too, while letters keep their size.
"""

import html
from collections.abc import Sequence

from mmdiff_jax.study.statistics.bootstrap import Interval

_ROW = 42


def _figure(caption: str, height: int, parts: Sequence[str]) -> str:
  words = html.escape(caption)
  return (
    f"<figure><figcaption>{words}</figcaption>"
    f'<svg width="100%" height="{height}" role="img" aria-label="{words}">'
    + "".join(parts)
    + "</svg></figure>"
  )


def forest(
  caption: str,
  rows: Sequence[tuple[str, Interval]],
  low: float,
  high: float,
  ticks: Sequence[float],
  reference: float | None = None,
) -> str:
  """Estimates with their 95 % intervals on one axis.

  Args:
    caption: what is estimated.
    rows: (name, interval).
    low: left end of the axis; intervals are cut there.
    high: right end.
    ticks: values that are written.
    reference: where to draw a dashed line.
  """
  base = _ROW * len(rows) + 4

  def x(value: float) -> str:
    inside = min(max(value, low), high)
    return f"{100 * (inside - low) / (high - low):.2f}%"

  def upright(kind: str, value: float) -> str:
    return (
      f'<line class="{kind}" x1="{x(value)}" x2="{x(value)}" y1="0" '
      f'y2="{base}"/>'
    )

  parts = [] if reference is None else [upright("reference", reference)]
  for tick in ticks:
    # The outermost are aligned with the ends, to stay inside.
    anchor = {low: "start", high: "end"}.get(tick, "middle")
    parts.append(
      f'{upright("grid", tick)}<text class="tick" x="{x(tick)}" '
      f'y="{base + 18}" text-anchor="{anchor}">{tick:g}</text>'
    )
  for number, (name, interval) in enumerate(rows):
    y = _ROW * number + 32
    parts.append(
      f'<text x="0" y="{y - 14}">{html.escape(name)}</text>'
      f'<text class="value" x="100%" y="{y - 14}" text-anchor="end">'
      f"{show(interval)}</text>"
      f'<line class="interval" x1="{x(interval.low)}" '
      f'x2="{x(interval.high)}" y1="{y}" y2="{y}"/>'
      f'<circle cx="{x(interval.value)}" cy="{y}" r="5"/>'
    )
  return _figure(caption, base + 24, parts)


def shares(caption: str, rows: Sequence[tuple[str, Sequence[float]]]) -> str:
  """Shares of the scores 1 to 5 as stacked bars."""
  parts = []
  for number, (name, values) in enumerate(rows):
    y, start = _ROW * number + 22, 0.0
    parts.append(f'<text x="0" y="{y - 5}">{html.escape(name)}</text>')
    for point, share in enumerate(values, 1):
      parts.append(
        f'<rect class="score{point}" x="{100 * start:.2f}%" y="{y}" '
        f'width="{100 * share:.2f}%" height="18"/>'
      )
      if share > 0.05:
        parts.append(
          f'<text class="on{point}" x="{100 * (start + share / 2):.2f}%" '
          f'y="{y + 14}" text-anchor="middle">{point}</text>'
        )
      start += share
  return _figure(caption, _ROW * len(rows) + 4, parts)


def show(interval: Interval | None) -> str:
  """An interval as text: value [low, high]."""
  if interval is None:
    return "–"
  return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
