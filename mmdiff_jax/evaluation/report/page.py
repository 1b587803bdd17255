"""Reports of an evaluation: text, report.json and a self-contained page."""

import html
import json
import os
import pathlib
from typing import Any

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.disk.files import as_path, replacing
from mmdiff_jax.evaluation import metrics as metric_table
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.evaluation.prdc import realism
from mmdiff_jax.media import embedding
from mmdiff_jax.pages import frame, players, plots
from mmdiff_jax.pages.tables import Table

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


def _counts(entry: dict[str, Any]) -> str:
  """Generated and real clips that a figure rests on."""
  if "n_fake" not in entry:
    return "-"
  return f"{entry['n_fake']}/{entry['n_real']}"


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
  lines.append(
    f"{'metric':22} {'value':>24} {'n':>11} {'among real':>12} {'n':>5}"
  )
  for name, entry in content["metrics"].items():
    value = format_value(entry["value"], entry["stderr"])
    lines.append(
      f"{name:22} {value:>24} {_counts(entry):>11} "
      f"{format_value(entry['real']):>12} {entry.get('real_n', '-'):>5}"
    )
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
  write_text(path, json.dumps(content, indent=2) + "\n")
  write_page(path.with_suffix(".html"), title, body)


def write_page(path: pathlib.Path, title: str, body: list[str]) -> None:
  """Writes a page of an evaluation: the kit's frame around parts in HTML."""
  page = frame.document(
    title, "\n".join(body), script=players.script(), body_class="report"
  )
  write_text(path, page)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes text; bytes of names that are not text are escaped."""
  with replacing(path) as temporary:
    pathlib.Path(temporary).write_text(
      text, encoding="utf-8", errors="backslashreplace"
    )


def clip_figure(clip: dict[str, np.ndarray], spec: AVSpec, caption: str) -> str:
  """A player with the clip inside.

  Args:
    clip: `video` uint8 `[F, H, W, 3]` and `audio` `[L]`.
    spec: frame and sampling rate.
    caption: text below.
  """
  video, audio = clip["video"], clip["audio"][:, None]
  player = players.player(
    embedding.clip_address(video, audio, spec.fps, spec.sample_rate),
    caption,
    video.shape[1:3],
    embedding.picture_address(video[0]),
    preload="metadata",
  )
  return players.figure(player, caption)


def _header(content: dict[str, Any]) -> str:
  """What was compared, by which weights, and what to mind."""
  sides = " ".join(
    f"{name}: {content[side]['source']}."
    for side, name in (("fake", "Generated"), ("real", "Real"))
  )
  return (
    frame.paragraph(f"{_compared(content)}.")
    + frame.paragraph(sides, "note")
    + remarks(content)
  )


def remarks(content: dict[str, Any]) -> str:
  """Weights, notes and warnings of an evaluation or a comparison, in HTML."""
  lines = [
    (weights_line(k, info), "small") for k, info in content["weights"].items()
  ]
  lines += [(note, "warning") for note in content["notes"]]
  lines += [(line, "warning small") for line in content["warnings"]]
  return "".join(frame.paragraph(*line) for line in lines)


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
    "of the real clips: what a perfect model would reach.",
  ),
  (
    "n",
    "the clips that a figure rests on, of a value the generated and the real "
    "ones. A Frechet distance of fewer clips is larger.",
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
  return (
    "<h2>Metrics</h2><table class=wide><tr><th>metric</th>"
    "<th class=number>value</th><th class=number>among real clips</th></tr>"
    f"{rows}</table>{frame.legend('How to read the table', _LEGEND)}"
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
    f"</p>{line}</td><td class=number>{value} "
    f"<span class=small>n={_counts(entry)}</span></td>"
    f"<td class=number>{format_value(entry['real'])} "
    f"<span class=small>n={entry.get('real_n', 0)}</span></td></tr>"
  )


def _memorisation(content: dict[str, Any], path: pathlib.Path) -> str:
  table = Table(
    "Copies by space",
    ("space", "copies", "real clips below threshold", "threshold",
     "median ratio", "smallest"),
    [
      (name, f"{space['share_of_copies']:.1%}",
       f"{space['share_of_real_below_threshold']:.1%}",
       f"{space['threshold']:.3f}", f"{space['median_ratio']:.3f}",
       f"{space['smallest_ratio']:.3f}")
      for name, space in content["spaces"].items()
    ],
  )  # fmt: skip
  sheet = f"{path.stem}_memorisation.html"
  return (
    "<h2>Memorisation</h2>"
    f"<p>{content['share_of_copies']:.1%} of the samples copy a training clip "
    f'(<a href="{html.escape(sheet)}">closest pairs</a>).</p>{table.html()}'
    f"<p class=small>{html.escape(content['explanation'])}</p>"
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
      clip_figure(
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
