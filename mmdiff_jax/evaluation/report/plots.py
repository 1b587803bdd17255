"""Plots as inline SVG."""

import html

import numpy as np

_WIDTH, _LEFT = 640, 150
_COLORS = ("var(--accent)", "var(--warn)")


def _number(value: float) -> str:
  return f"{value:.4g}"


def intervals(rows: list[tuple[str, float, float, float | None]]) -> str:
  """One line per metric: its value with two standard errors, and the reals'.

  Every row has its own scale, since the metrics have different units.

  Args:
    rows: (name, value, standard error, value among real clips or None).
  """
  height, step = 30 * len(rows) + 30, 30
  parts = [
    f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" '
    'aria-label="Metrics with error bars">'
  ]
  for i, (name, value, error, real) in enumerate(rows):
    y = 20 + i * step
    ends = [value - 2 * error, value + 2 * error, 0.0]
    ends += [] if real is None else [real]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def x(v: float, low: float = low, span: float = span) -> float:
      return _LEFT + 20 + (v - low) / span * (_WIDTH - _LEFT - 130)

    parts.append(
      f'<text x="0" y="{y + 4}">{html.escape(name)}</text>'
      f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" '
      'stroke="var(--line)"/>'
      f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{y - 8}" y2="{y + 8}" '
      'stroke="currentColor" stroke-width="1"/>'
      f'<line x1="{x(ends[0]):.1f}" x2="{x(ends[1]):.1f}" y1="{y}" y2="{y}" '
      f'stroke="{_COLORS[0]}" stroke-width="5" stroke-linecap="round" '
      'opacity=".55"/>'
      f'<circle cx="{x(value):.1f}" cy="{y}" r="4.5" fill="{_COLORS[0]}"/>'
      f'<text x="{_WIDTH - 95}" y="{y + 4}">{_number(value)}</text>'
    )
    if real is not None:
      parts.append(
        f'<path d="M{x(real):.1f} {y - 6} l5 6 l-5 6 l-5 -6 z" fill="none" '
        f'stroke="{_COLORS[1]}" stroke-width="2"/>'
      )
  parts.append("</svg>")
  return "".join(parts)


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
  width, height, base = _WIDTH, 190, 150
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
  bar = (width - 40) / bins
  parts = [
    f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
    f'aria-label="{html.escape(label)}">'
  ]
  for number, (name, share) in enumerate(shares.items()):
    color = _COLORS[number % 2]
    parts += [
      f'<rect x="{20 + i * bar:.1f}" y="{base - s / top * 120:.1f}" '
      f'width="{bar - 1:.1f}" height="{s / top * 120:.1f}" fill="{color}" '
      'opacity=".5"/>'
      for i, s in enumerate(share)
      if s > 0
    ]
    parts.append(
      f'<rect x="{width - 150}" y="{8 + 18 * number}" width="12" height="12" '
      f'fill="{color}" opacity=".5"/><text x="{width - 132}" '
      f'y="{18 + 18 * number}">{html.escape(name)}</text>'
    )
  if threshold is not None:
    x = 20 + (threshold - low) / (high - low) * (width - 40)
    parts.append(
      f'<line x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="{base}" '
      'stroke="currentColor" stroke-dasharray="4 3"/>'
    )
  parts.append(
    f'<line x1="20" x2="{width - 20}" y1="{base}" y2="{base}" '
    'stroke="currentColor"/>'
    f'<text x="20" y="{base + 16}">{_number(low)}</text>'
    f'<text x="{width - 20}" y="{base + 16}" text-anchor="end">'
    f"{_number(high)}</text>"
    f'<text x="{width / 2}" y="{base + 32}" text-anchor="middle">'
    f"{html.escape(label)}</text></svg>"
  )
  return "".join(parts)


def curves(
  series: dict[str, list[tuple[float, float, float]]], x_label: str, label: str
) -> str:
  """Lines of points with bars of two standard errors.

  Args:
    series: (x, y, standard error) of the points by name, x ascending.
    x_label: of the horizontal axis.
    label: of the vertical one.
  """
  height, left, right, top, base = 260, 70, 180, 20, 210
  points = [point for line in series.values() for point in line]
  x_low, x_high = min(p[0] for p in points), max(p[0] for p in points)
  low = min(y - 2 * error for _, y, error in points)
  high = max(y + 2 * error for _, y, error in points)
  x_span, span = (x_high - x_low) or 1.0, (high - low) or 1.0

  def place(x: float, y: float) -> tuple[float, float]:
    across = left + (x - x_low) / x_span * (_WIDTH - left - right)
    return across, base - (y - low) / span * (base - top)

  parts = [
    f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" '
    f'aria-label="{html.escape(label)}">'
    f'<line x1="{left}" x2="{_WIDTH - right}" y1="{base}" y2="{base}" '
    'stroke="currentColor"/>'
    f'<text x="0" y="{top - 6}">{html.escape(label)}</text>'
    f'<text x="0" y="{top + 12}">{_number(high)}</text>'
    f'<text x="0" y="{base}">{_number(low)}</text>'
    f'<text x="{left}" y="{base + 18}">{_number(x_low)}</text>'
    f'<text x="{_WIDTH - right}" y="{base + 18}" text-anchor="end">'
    f"{_number(x_high)}</text>"
    f'<text x="{left}" y="{base + 36}">{html.escape(x_label)}</text>'
  ]
  for number, (name, line) in enumerate(series.items()):
    color = f"hsl({215 + 67 * number} 60% 50%)"
    places = [place(x, y) for x, y, _ in line]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(
      f'<polyline points="{path}" fill="none" stroke="{color}" '
      'stroke-width="2"/>'
      f'<text x="{_WIDTH - right + 12}" y="{top + 18 * number + 12}" '
      f'style="fill:{color}">{html.escape(name)}</text>'
    )
    for (x, y), (at, value, error) in zip(places, line, strict=True):
      ends = (place(at, value - 2 * error)[1], place(at, value + 2 * error)[1])
      parts.append(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" '
        f'y2="{ends[1]:.1f}" stroke="{color}"/>'
      )
  parts.append("</svg>")
  return "".join(parts)
