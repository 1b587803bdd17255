"""Plots as inline SVG.

Horizontal places are shares of the width, and names stand above what they
name: plots fill any width, a telephone's too, while letters keep their size.
"""

import html
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

_ROW = 42
_COLORS = ("var(--accent)", "var(--warn)")


class Estimate(Protocol):
  """A value and the ends of its interval."""

  @property
  def value(self) -> float:
    """The estimate."""

  @property
  def low(self) -> float:
    """The lower end."""

  @property
  def high(self) -> float:
    """The upper end."""


def show(estimate: Estimate | None) -> str:
  """An estimate as text: value [low, high]."""
  if estimate is None:
    return "–"
  return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _svg(label: str, height: int, parts: Iterable[str]) -> str:
  return (
    f'<svg height="{height}" role="img" aria-label="{html.escape(label)}">'
    + "".join(parts)
    + "</svg>"
  )


def _figure(caption: str, height: int, parts: Iterable[str]) -> str:
  return (
    f'<figure class="plot"><figcaption>{html.escape(caption)}</figcaption>'
    f"{_svg(caption, height, parts)}</figure>"
  )


def _text(
  x: str, y: float, words: str, anchor: str = "start", kind: str = ""
) -> str:
  return (
    f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">'
    f"{html.escape(words)}</text>"
  )


def _line(kind: str, x1: str, x2: str, y1: float, y2: float) -> str:
  return f'<line class="{kind}" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'


def _number(value: float) -> str:
  return f"{value:.4g}"


def _key(entries: Iterable[tuple[str, str]]) -> str:
  """Names and their colours, above a plot."""
  items = "".join(
    f'<span><i style="background:{color}"></i>{html.escape(name)}</span>'
    for name, color in entries
  )
  return f'<p class="key small">{items}</p>'


def interval(value: float, error: float, real: float | None) -> str:
  """A value with two standard errors, zero, and the value among real clips.

  Each plot has its own scale, since metrics have different units.
  """
  ends = [value - 2 * error, value + 2 * error]
  points = [*ends, 0.0] + ([] if real is None else [real])
  low, high = min(points), max(points)
  span = (high - low) or 1.0

  def x(v: float) -> str:
    return f"{2 + 96 * (v - low) / span:.2f}%"

  parts = [
    _line("grid", "2%", "98%", 10, 10),
    _line("axis", x(0), x(0), 3, 17),
    _line("interval", x(ends[0]), x(ends[1]), 10, 10),
    f'<circle cx="{x(value)}" cy="10" r="4.5"/>',
  ]
  if real is not None:
    # A nested picture, since a path has no shares of the width.
    parts.append(
      f'<svg x="{x(real)}" y="10" width="1" height="1" overflow="visible">'
      '<path d="M0 -6 l5 6 l-5 6 l-5 -6 z" fill="none" '
      f'stroke="{_COLORS[1]}" stroke-width="2"/></svg>'
    )
  return _svg("value, its error and the value among real clips", 20, parts)


def histograms(
  series: dict[str, np.ndarray],
  label: str,
  threshold: float | None = None,
  bins: int = 30,
) -> str:
  """Overlaid histograms of two sets of values, as shares.

  Args:
    series: values by name, at most two.
    label: of the axis.
    threshold: where to draw a dashed line.
    bins: number of bars.
  """
  base = 130
  values = np.concatenate(list(series.values()))
  low, high = float(values.min()), float(np.quantile(values, 0.995))
  if threshold is not None:
    low, high = min(low, threshold), max(high, threshold)
  high = high if high > low else low + 1.0
  edges = np.linspace(low, high, bins + 1)
  shares = {
    name: np.histogram(np.clip(v, low, high), edges)[0] / max(len(v), 1)
    for name, v in series.items()
  }
  top = max(float(s.max()) for s in shares.values()) or 1.0
  bar = 100 / bins
  parts = [
    f'<rect x="{i * bar:.2f}%" y="{base - s / top * 120:.1f}" '
    f'width="{bar - 0.2:.2f}%" height="{s / top * 120:.1f}" fill="{color}" '
    'opacity=".5"/>'
    for color, share in zip(_COLORS, shares.values(), strict=False)
    for i, s in enumerate(share)
    if s > 0
  ]
  if threshold is not None:
    x = f"{100 * (threshold - low) / (high - low):.2f}%"
    parts.append(_line("reference", x, x, 4, base))
  parts += [
    _line("axis", "0", "100%", base, base),
    _text("0", base + 16, _number(low)),
    _text("100%", base + 16, _number(high), "end"),
    _text("50%", base + 32, label, "middle"),
  ]
  return _key(zip(shares, _COLORS, strict=False)) + _svg(label, 166, parts)


def curves(
  series: dict[str, list[tuple[float, float, float]]], x_label: str, label: str
) -> str:
  """Lines of points with bars of two standard errors.

  Args:
    series: (x, y, standard error) of the points by name, x ascending.
    x_label: of the horizontal axis.
    label: of the vertical one.
  """
  top, base = 34, 196
  points = [point for line in series.values() for point in line]
  x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
  low = min(y - 2 * error for _, y, error in points)
  high = max(y + 2 * error for _, y, error in points)
  x_span, span = (x_high - x_low) or 1.0, (high - low) or 1.0

  def place(x: float, y: float) -> tuple[str, str]:
    across = 2 + 96 * (x - x_low) / x_span
    return f"{across:.2f}%", f"{base - (y - low) / span * (base - top):.1f}"

  parts = [
    _line("axis", "0", "100%", base, base),
    _line("grid", "0", "100%", top, top),
    _text("0", 14, label),
    _text("0", top - 4, _number(high)),
    _text("0", base - 4, _number(low)),
    _text("0", base + 16, _number(x_low)),
    _text("100%", base + 16, _number(x_high), "end"),
    _text("50%", base + 34, x_label, "middle"),
  ]
  colors = [f"hsl({215 + 67 * n} 60% 50%)" for n in range(len(series))]
  for color, line in zip(colors, series.values(), strict=True):
    places = [place(x, y) for x, y, _ in line]
    parts += [
      f'<line x1="{x}" y1="{y}" x2="{next_x}" y2="{next_y}" '
      f'stroke="{color}" stroke-width="2"/>'
      for (x, y), (next_x, next_y) in zip(places, places[1:], strict=False)
    ]
    for (x, y), (at, value, error) in zip(places, line, strict=True):
      ends = (place(at, value - 2 * error)[1], place(at, value + 2 * error)[1])
      parts.append(
        f'<circle cx="{x}" cy="{y}" r="3.5" style="fill:{color}"/>'
        f'<line x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}" '
        f'stroke="{color}"/>'
      )
  return _key(zip(series, colors, strict=True)) + _svg(label, 236, parts)


def forest(
  caption: str,
  rows: Sequence[tuple[str, Estimate]],
  low: float,
  high: float,
  ticks: Iterable[float],
  reference: float | None = None,
) -> str:
  """Estimates with their intervals on one axis.

  Args:
    caption: what is estimated.
    rows: (name, estimate).
    low: left end of the axis; intervals are cut there.
    high: right end.
    ticks: values that are written.
    reference: where to draw a dashed line.
  """
  base = _ROW * len(rows) + 4

  def x(value: float) -> str:
    inside = min(max(value, low), high)
    return f"{100 * (inside - low) / (high - low):.2f}%"

  parts = []
  if reference is not None:
    parts.append(_line("reference", x(reference), x(reference), 0, base))
  for tick in ticks:
    # The outermost are aligned with the ends, to stay inside.
    anchor = {low: "start", high: "end"}.get(tick, "middle")
    parts += [
      _line("grid", x(tick), x(tick), 0, base),
      _text(x(tick), base + 18, f"{tick:g}", anchor, "quiet"),
    ]
  for number, (name, found) in enumerate(rows):
    y = _ROW * number + 32
    parts += [
      _text("0", y - 14, name),
      _text("100%", y - 14, show(found), "end", "quiet"),
      _line("interval", x(found.low), x(found.high), y, y),
      f'<circle cx="{x(found.value)}" cy="{y}" r="5"/>',
    ]
  return _figure(caption, base + 24, parts)


def shares(caption: str, rows: Sequence[tuple[str, Sequence[float]]]) -> str:
  """Shares of the scores 1 to 5 as stacked bars."""
  parts = []
  for number, (name, values) in enumerate(rows):
    y, start = _ROW * number + 22, 0.0
    parts.append(_text("0", y - 5, name))
    for point, share in enumerate(values, 1):
      parts.append(
        f'<rect class="score{point}" x="{100 * start:.2f}%" y="{y}" '
        f'width="{100 * share:.2f}%" height="18"/>'
      )
      if share > 0.05:
        middle = f"{100 * (start + share / 2):.2f}%"
        parts.append(_text(middle, y + 14, str(point), "middle", f"on{point}"))
      start += share
  return _figure(caption, _ROW * len(rows) + 4, parts)
