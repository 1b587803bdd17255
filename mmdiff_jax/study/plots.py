"""The report's plots, as inline SVG."""

import html
from collections.abc import Sequence

from mmdiff_jax.study.bootstrap import Interval

_WIDTH, _LEFT, _RIGHT = 680, 150, 130


def forest(
  rows: Sequence[tuple[str, Interval]],
  low: float,
  high: float,
  ticks: Sequence[float],
  reference: float | None = None,
) -> str:
  """Estimates with their 95 % intervals on one axis.

  Args:
    rows: (name, interval).
    low: left end of the axis; intervals are cut there.
    high: right end.
    ticks: values that are written.
    reference: where to draw a dashed line.
  """
  base = 18 + 28 * len(rows)

  def x(value: float) -> float:
    inside = min(max(value, low), high)
    return _LEFT + (inside - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

  parts = [
    f'<svg viewBox="0 0 {_WIDTH} {base + 26}" role="img" '
    'aria-label="Estimates with 95 % intervals">'
  ]
  for tick in ticks:
    parts.append(
      f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="8" '
      f'y2="{base}"/><text class="tick" x="{x(tick):.1f}" y="{base + 18}" '
      f'text-anchor="middle">{tick:g}</text>'
    )
  if reference is not None:
    parts.append(
      f'<line class="reference" x1="{x(reference):.1f}" '
      f'x2="{x(reference):.1f}" y1="8" y2="{base}"/>'
    )
  for number, (name, interval) in enumerate(rows):
    y = 24 + 28 * number
    parts.append(
      f'<text x="{_LEFT - 12}" y="{y + 5}" text-anchor="end">'
      f"{html.escape(name)}</text>"
      f'<line class="interval" x1="{x(interval.low):.1f}" '
      f'x2="{x(interval.high):.1f}" y1="{y}" y2="{y}"/>'
      f'<circle cx="{x(interval.value):.1f}" cy="{y}" r="4.5"/>'
      f'<text class="tick" x="{_WIDTH - _RIGHT + 12}" y="{y + 5}">'
      f"{show(interval)}</text>"
    )
  return "".join([*parts, "</svg>"])


def shares(rows: Sequence[tuple[str, Sequence[float]]]) -> str:
  """Shares of the scores 1 to 5 as stacked bars."""
  height = 28 * len(rows) + 12
  span = _WIDTH - _LEFT - _RIGHT
  parts = [
    f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" '
    'aria-label="Shares of the scores 1 to 5">'
  ]
  for number, (name, values) in enumerate(rows):
    y, start = 8 + 28 * number, 0.0
    parts.append(
      f'<text x="{_LEFT - 12}" y="{y + 15}" text-anchor="end">'
      f"{html.escape(name)}</text>"
    )
    for point, share in enumerate(values, 1):
      left, wide = _LEFT + start * span, share * span
      parts.append(
        f'<rect class="score{point}" x="{left:.1f}" y="{y}" '
        f'width="{max(wide - 1, 0):.1f}" height="20"/>'
      )
      if share > 0.06:
        parts.append(
          f'<text class="on{point}" x="{left + wide / 2:.1f}" y="{y + 15}" '
          f'text-anchor="middle">{point}</text>'
        )
      start += share
  return "".join([*parts, "</svg>"])


def show(interval: Interval | None) -> str:
  """An interval as text: value [low, high]."""
  if interval is None:
    return "–"
  return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
