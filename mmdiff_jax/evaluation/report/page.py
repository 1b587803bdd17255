"""Reports of an evaluation: text, report.json and a self-contained page."""

import html
import json
import os
import pathlib
from typing import Any

import numpy as np

from mmdiff_jax.evaluation import metrics as metric_table
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.evaluation.prdc import realism
from mmdiff_jax.evaluation.report import players, plots
from mmdiff_jax.files import as_path, replacing

# Clips that the page shows from each end of the ranking.
_SHOWN = 6
# Features that rank clips, best first.
_RANKING = ("i3d", "i3d_random", "audioclip", "vggish", "mel")


def format_value(value: float | None, error: float | None = None) -> str:
  """A value with its standard error."""
  if value is None:
    return "-"
  text = f"{value:.4g}"
  return text if error is None else f"{text} +- {error:.2g}"


def weights_line(kind: str, info: dict[str, Any]) -> str:
  """Which weights the figures of a network are of, in a line."""
  package = f" of {info['package']}" if "package" in info else ""
  line = f"{kind}: {info['file']}{package}, sha256 {info['sha256'][:12]}..."
  if "batch_norm_epsilon" in info:
    line += f", BatchNorm epsilon {info['batch_norm_epsilon']:g}"
  return line


def as_text(content: dict[str, Any]) -> str:
  """The figures as lines of plain text."""
  spec, real = content["spec"], content["real"]
  side = "" if real["split"] == "all" else f"{real['split']} "
  lines = [
    f"{content['fake']['used']} generated against {real['used']} {side}"
    f"real clips, {spec['frames']} frames of {spec['height']}x"
    f"{spec['width']} at {spec['fps']:g} fps, protocol {content['protocol']}, "
    f"seed {content['seed']}",
    f"{'metric':22} {'value':>24} {'real':>12}",
  ]
  lines[1:1] = [
    weights_line(kind, info) for kind, info in content["weights"].items()
  ]
  for name, entry in content["metrics"].items():
    value = format_value(entry["value"], entry["stderr"])
    lines.append(f"{name:22} {value:>24} {format_value(entry['real']):>12}")
  if "memorisation" in content:
    share = content["memorisation"]["share_of_copies"]
    lines.append(f"{'copies of training clips':22} {share:>22.1%}")
  lines += [f"note: {note}" for note in content["notes"]]
  lines += [f"warning: {warning}" for warning in content["warnings"]]
  return "\n".join(lines)


def write(
  output: str | os.PathLike,
  content: dict[str, Any],
  sides: dict[str, ClipSet],
  features: dict[str, metric_table.Features],
) -> None:
  """Writes report.json and, beside it, report.html.

  Args:
    output: path of the .json file.
    content: of the report.
    sides: the "real" and "fake" clips.
    features: of both sides, for the ranking of clips.
  """
  path = as_path(output)
  body = [_header(content), _table(content), _plot(content)]
  if "memorisation" in content:
    body.append(_memorisation(content["memorisation"], path))
  body += [_ranking(sides, features), _provenance(content, path)]
  page = players.page("Evaluation report", "\n".join(body))
  for target, text in (
    (path, json.dumps(content, indent=2) + "\n"),
    (path.with_suffix(".html"), page),
  ):
    with replacing(target) as temporary:
      pathlib.Path(temporary).write_text(text, encoding="utf-8")


def _header(content: dict[str, Any]) -> str:
  first, *_ = as_text(content).splitlines()
  stated = [
    f"<p class=small>{html.escape(weights_line(kind, info))}</p>"
    for kind, info in content["weights"].items()
  ]
  messages = [f'<p class="note">{html.escape(w)}</p>' for w in content["notes"]]
  messages += [
    f'<p class="note small">{html.escape(w)}</p>' for w in content["warnings"]
  ]
  return f"<p>{html.escape(first)}.</p>" + "".join(stated + messages)


def _table(content: dict[str, Any]) -> str:
  rows = [
    '<h2>Metrics</h2><table><tr><th>metric</th><th class="number">value'
    '</th><th class="number">among real clips</th><th></th></tr>'
  ]
  for name, entry in content["metrics"].items():
    arrow = "&darr;" if entry["better"] == "lower" else "&uarr;"
    value = format_value(entry["value"], entry["stderr"]).replace("+-", "±")
    about = entry["about"]
    if entry["value"] is None:
      about += f" (left out: {entry['reason']})"
    rows.append(
      f"<tr><td>{html.escape(name)} {arrow}</td>"
      f'<td class="number">{value}</td>'
      f'<td class="number">{format_value(entry["real"])} '
      f'<span class="small">n={entry.get("real_n", 0)}</span></td>'
      f'<td class="small">{html.escape(about)}</td></tr>'
    )
  return "".join(rows) + (
    "</table><p class=small>± is one standard error (a tenth of the clips left "
    "out at a time; for figures of pairing, over clips). Among real clips: one "
    "random half against the other, or the same figure of the real clips; a "
    "Frechet distance of fewer clips is larger.</p>"
  )


def _plot(content: dict[str, Any]) -> str:
  rows = [
    (name, entry["value"], entry["stderr"] or 0.0, entry["real"])
    for name, entry in content["metrics"].items()
    if entry["value"] is not None
  ]
  return (
    "<h2>Values and error bars</h2>" + plots.intervals(rows) + "<p "
    "class=small>Dot and bar: value and two standard errors. Diamond: among "
    "real clips. Tick: zero. Each row has its own scale.</p>"
  )


def _memorisation(content: dict[str, Any], path: pathlib.Path) -> str:
  rows = "".join(
    f"<tr><td>{name}</td><td class=number>{space['share_of_copies']:.1%}</td>"
    f"<td class=number>{space['share_of_real_below_threshold']:.1%}</td>"
    f"<td class=number>{space['threshold']:.3f}</td>"
    f"<td class=number>{space['median_ratio']:.3f}</td>"
    f"<td class=number>{space['smallest_ratio']:.3f}</td></tr>"
    for name, space in content["spaces"].items()
  )
  sheet = f"{path.stem}_memorisation.html"
  return (
    "<h2>Memorisation</h2>"
    f"<p>{content['share_of_copies']:.1%} of the samples copy a training clip "
    f'(<a href="{html.escape(sheet)}">closest pairs</a>).</p>'
    "<table><tr><th>space</th><th class=number>copies</th><th class=number>real"
    " clips below threshold</th><th class=number>threshold</th><th "
    "class=number>median ratio</th><th class=number>smallest</th></tr>"
    f"{rows}</table><p class=small>{html.escape(content['explanation'])}</p>"
  )


def _ranking(
  sides: dict[str, ClipSet], features: dict[str, metric_table.Features]
) -> str:
  """Worst and best generated clips, with players."""
  name = next((n for n in _RANKING if n in features["real"]), None)
  if name is None:
    return ""
  real, fake = (
    features[side][name].reshape(len(features[side][name]), -1)
    for side in ("real", "fake")
  )
  if len(real) < 3:
    return ""
  score = realism(real, fake)
  order = np.argsort(score)
  count = min(_SHOWN, len(order) // 2)
  parts = [
    f"<h2>Worst and best clips</h2><p class=small>By realism in {name}: the "
    "largest ratio of a real clip's distance to its neighbours over its "
    "distance to the sample; at least 1 inside the real clips.</p>",
    plots.histograms({"generated clips": score}, f"realism ({name})"),
  ]
  clips = sides["fake"]
  for title, chosen in (
    ("Worst", order[:count]),
    ("Best", order[len(order) - count :][::-1]),
  ):
    figures = [
      players.figure(
        clips.load(int(i), audio=False),
        clips.spec,
        f"{clips.ids[i]} ({score[i]:.2f})",
      )
      for i in chosen
    ]
    parts.append(f"<h3>{title}</h3><div class=clips>{''.join(figures)}</div>")
  return "".join(parts)


def _provenance(content: dict[str, Any], path: pathlib.Path) -> str:
  """What makes the figures reproducible."""
  shown = {
    "weights": content["weights"] or "none",
    "seed of random networks": content["random_network_seed"],
    "versions": content["versions"],
    "share held out of training": content["holdout_fraction"],
    "real": {k: v for k, v in content["real"].items() if k != "clips"},
    "fake": {k: v for k, v in content["fake"].items() if k != "clips"},
    "created": content["created"],
  }
  text = html.escape(json.dumps(shown, indent=2))
  return (
    f"<h2>How to repeat this</h2><p class=small>{html.escape(path.name)} also "
    f"lists every clip.</p><pre class=small>{text}</pre>"
  )
