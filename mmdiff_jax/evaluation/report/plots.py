"""Plots as inline SVG.

Places are shares of the width: a plot is as wide as its page has room, and
its text keeps its size.
"""

import html
from collections.abc import Iterable

import numpy as np

_COLORS = ("var(--accent)", "var(--warn)")


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

  color, other = _COLORS
  parts = [
    '<svg height="20" role="img" aria-label="value, its error and the value '
    f'among real clips"><line x1="2%" x2="98%" y1="10" y2="10" '
    f'stroke="var(--line)"/><line x1="{x(0)}" x2="{x(0)}" y1="3" y2="17" '
    f'stroke="currentColor"/><line x1="{x(ends[0])}" x2="{x(ends[1])}" y1="10"'
    f' y2="10" stroke="{color}" stroke-width="5" stroke-linecap="round" '
    f'opacity=".55"/><circle cx="{x(value)}" cy="10" r="4.5" fill="{color}"/>'
  ]
  if real is not None:
    # A nested picture, since a path has no shares of the width.
    parts.append(
      f'<svg x="{x(real)}" y="10" width="1" height="1" overflow="visible">'
      '<path d="M0 -6 l5 6 l-5 6 l-5 -6 z" fill="none" '
      f'stroke="{other}" stroke-width="2"/></svg>'
    )
  return "".join(parts) + "</svg>"


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
  height, base = 166, 130
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
    f'<svg height="{height}" role="img" aria-label="{html.escape(label)}">'
  ]
  for color, share in zip(_COLORS, shares.values(), strict=False):
    parts += [
      f'<rect x="{i * bar:.2f}%" y="{base - s / top * 120:.1f}" '
      f'width="{bar - 0.2:.2f}%" height="{s / top * 120:.1f}" fill="{color}" '
      'opacity=".5"/>'
      for i, s in enumerate(share)
      if s > 0
    ]
  if threshold is not None:
    x = f"{100 * (threshold - low) / (high - low):.2f}%"
    parts.append(
      f'<line x1="{x}" x2="{x}" y1="4" y2="{base}" stroke="currentColor" '
      'stroke-dasharray="4 3"/>'
    )
  parts.append(
    f'<line x1="0" x2="100%" y1="{base}" y2="{base}" stroke="currentColor"/>'
    f'<text x="0" y="{base + 16}">{_number(low)}</text>'
    f'<text x="100%" y="{base + 16}" text-anchor="end">{_number(high)}</text>'
    f'<text x="50%" y="{base + 32}" text-anchor="middle">'
    f"{html.escape(label)}</text></svg>"
  )
  return _key(zip(shares, _COLORS, strict=False)) + "".join(parts)


def curves(
  series: dict[str, list[tuple[float, float, float]]], x_label: str, label: str
) -> str:
  """Lines of points with bars of two standard errors.

  Args:
    series: (x, y, standard error) of the points by name, x ascending.
    x_label: of the horizontal axis.
    label: of the vertical one.
  """
  height, top, base = 236, 34, 196
  points = [point for line in series.values() for point in line]
  x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
  low = min(y - 2 * error for _, y, error in points)
  high = max(y + 2 * error for _, y, error in points)
  x_span, span = (x_high - x_low) or 1.0, (high - low) or 1.0

  def place(x: float, y: float) -> tuple[str, str]:
    across = 2 + 96 * (x - x_low) / x_span
    return f"{across:.2f}%", f"{base - (y - low) / span * (base - top):.1f}"

  parts = [
    f'<svg height="{height}" role="img" aria-label="{html.escape(label)}">'
    f'<line x1="0" x2="100%" y1="{base}" y2="{base}" stroke="currentColor"/>'
    f'<line x1="0" x2="100%" y1="{top}" y2="{top}" stroke="var(--line)"/>'
    f'<text x="0" y="14">{html.escape(label)}</text>'
    f'<text x="0" y="{top - 4}">{_number(high)}</text>'
    f'<text x="0" y="{base - 4}">{_number(low)}</text>'
    f'<text x="0" y="{base + 16}">{_number(x_low)}</text>'
    f'<text x="100%" y="{base + 16}" text-anchor="end">{_number(x_high)}'
    f'</text><text x="50%" y="{base + 34}" text-anchor="middle">'
    f"{html.escape(x_label)}</text>"
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
        f'<circle cx="{x}" cy="{y}" r="3.5" fill="{color}"/>'
        f'<line x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}" '
        f'stroke="{color}"/>'
      )
  return _key(zip(series, colors, strict=True)) + "".join(parts) + "</svg>"
