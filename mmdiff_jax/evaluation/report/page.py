"""Reports of an evaluation: text, report.json and a self-contained page."""

import html
import json
import os
import pathlib
from typing import Any

import numpy as np

from mmdiff_jax.disk.files import as_path, replacing
from mmdiff_jax.evaluation import metrics as metric_table
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.evaluation.prdc import realism
from mmdiff_jax.evaluation.report import players, plots

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


def _compared(content: dict[str, Any]) -> str:
  """How many clips of which geometry were compared, and how."""
  spec, real = content["spec"], content["real"]
  side = "" if real["split"] == "all" else f"{real['split']} "
  return (
    f"{content['fake']['used']} generated against {real['used']} {side}"
    f"real clips, {spec['frames']} frames of {spec['height']}x"
    f"{spec['width']} at {spec['fps']:g} fps, protocol {content['protocol']}, "
    f"seed {content['seed']}"
  )


def as_text(content: dict[str, Any]) -> str:
  """The figures as lines of plain text."""
  lines = [_compared(content)]
  lines += [weights_line(kind, i) for kind, i in content["weights"].items()]
  lines.append(f"{'metric':22} {'value':>24} {'real':>12}")
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
  body = [_header(content), _table(content)]
  if "memorisation" in content:
    body.append(_memorisation(content["memorisation"], path))
  body += [_ranking(sides, features), _provenance(content, path)]
  title = (
    f"Evaluation of {content['fake']['used']} generated clips against "
    f"{content['real']['used']} real ones"
  )
  page = players.page(title, "\n".join(body))
  for target, text in (
    (path, json.dumps(content, indent=2) + "\n"),
    (path.with_suffix(".html"), page),
  ):
    with replacing(target) as temporary:
      pathlib.Path(temporary).write_text(
        text, encoding="utf-8", errors="backslashreplace"
      )


def _header(content: dict[str, Any]) -> str:
  """What was compared, by which weights, and what to mind."""
  first = _compared(content)
  sides = " ".join(
    f"{name}: {content[side]['source']}."
    for side, name in (("fake", "Generated"), ("real", "Real"))
  )
  stated = [
    f"<p class=small>{html.escape(weights_line(kind, info))}</p>"
    for kind, info in content["weights"].items()
  ]
  notes = [f"<p class=warning>{html.escape(w)}</p>" for w in content["notes"]]
  notes += [
    f'<p class="warning small">{html.escape(w)}</p>'
    for w in content["warnings"]
  ]
  return (
    f"<p>{html.escape(first)}.</p><p class=note>{html.escape(sides)}</p>"
    + "".join(stated + notes)
  )


_LEGEND = (
  ("↓ ↑", "the better direction: lower, higher."),
  (
    "±",
    "one standard error: a tenth of the clips left out at a time; for figures "
    "of pairing, over clips.",
  ),
  (
    "Among real clips",
    "one random half of the real clips against the other, or the same figure "
    "of the real clips: what a perfect model would reach. n clips; a Frechet "
    "distance of fewer clips is larger.",
  ),
  (
    "The line below a metric",
    "dot and bar are the value and two standard errors, the diamond is the "
    "value among real clips, the tick is zero. Each line has its own scale.",
  ),
)


def _table(content: dict[str, Any]) -> str:
  rows = "".join(
    _row(name, entry) for name, entry in content["metrics"].items()
  )
  legend = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in _LEGEND)
  return (
    "<h2>Metrics</h2><table><tr><th>metric</th><th class=number>value</th>"
    f"<th class=number>among real clips</th></tr>{rows}</table>"
    "<details class=legend open><summary>How to read the table</summary>"
    f"<dl>{legend}</dl></details>"
  )


def _row(name: str, entry: dict[str, Any]) -> str:
  arrow = "↓" if entry["better"] == "lower" else "↑"
  about, line = entry["about"], ""
  if entry["value"] is None:
    about += f" (left out: {entry['reason']})"
  else:
    error = entry["stderr"] or 0.0
    line = plots.interval(entry["value"], error, entry["real"])
  value = format_value(entry["value"], entry["stderr"]).replace("+-", "±")
  return (
    f"<tr><td>{html.escape(name)} {arrow}<p class=small>{html.escape(about)}"
    f"</p>{line}</td><td class=number>{value}</td>"
    f"<td class=number>{format_value(entry['real'])} "
    f"<span class=small>n={entry.get('real_n', 0)}</span></td></tr>"
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
    + players.scrolling(
      "<table><tr><th>space</th><th class=number>copies</th><th class=number>"
      "real clips below threshold</th><th class=number>threshold</th><th "
      "class=number>median ratio</th><th class=number>smallest</th></tr>"
      f"{rows}</table>",
      "Copies by space",
    )
    + f"<p class=small>{html.escape(content['explanation'])}</p>"
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
