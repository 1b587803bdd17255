"""Metrics of a set of generated clips against real ones, as a report.

`report.json` holds every figure with what makes it reproducible; `report.html`
beside it shows them with plots and players.
"""

import os
from typing import Any, NamedTuple

import jax
import numpy as np

from mmdiff_jax.data.sources import Name
from mmdiff_jax.evaluation import memorisation as memorisation_check
from mmdiff_jax.evaluation.clip_sets import ClipSet
from mmdiff_jax.evaluation.entries import compute, find_warnings, no_entry
from mmdiff_jax.evaluation.metrics import Features
from mmdiff_jax.evaluation.report import page, sheet
from mmdiff_jax.evaluation.session import (
  EvaluationSettings,
  Session,
  check_output,
  describe_clips,
)
from mmdiff_jax.evaluation.weights import Embedder


def evaluate(
  *,
  real: Name,
  fake: Name,
  output: str | os.PathLike | None = None,
  memorisation: bool = False,
  **settings: Any,
) -> dict[str, Any]:
  """Compares generated clips with real ones.

  Clips that cannot be used are left out and listed; a metric that fails is
  None, with its reason.

  Args:
    real: the real clips: a source as training takes it, or a dict of arrays;
      see `data.sources.open_source`.
    fake: the generated clips, likewise.
    output: where report.json goes; report.html is written beside it, and with
      `memorisation` the sheets of closest pairs. None writes nothing.
    memorisation: also look for training clips that samples copy, among the
      real videos that training did not hold out.
    **settings: fields of `session.EvaluationSettings`.

  Returns:
    The content of report.json.

  Raises:
    ValueError: on sets, names or weights that do not allow what is asked, or
      if no metric can be computed.
    FileNotFoundError: if a metric's weights are not there.
  """
  check_output(output)
  session = Session(
    EvaluationSettings(**settings), {"real": real, "fake": fake}, memorisation
  )
  sides = {"real": session.open_real(real), "fake": session.open_fake(fake)}
  features = {
    side: session.embed(clips, session.needed, side)
    for side, clips in sides.items()
  }
  entries, warnings = measure(session, features["real"], features["fake"])
  for side, clips in sides.items():
    if clips.skipped:
      name, reason = clips.skipped[0]
      warnings.append(
        f"{side}: {len(clips.skipped)} left out, listed in the report (the "
        f"first: {name}: {reason})."
      )
  content = session.describe() | {
    "metrics": entries,
    "warnings": warnings,
    **{side: describe_clips(clips) for side, clips in sides.items()},
  }
  copies = None
  if memorisation:
    training = session.open_training(real)
    spaces = _find_copies(
      training, sides["fake"], session.embed, session.video, session.settings
    )
    copies = Copies(spaces, training)
    content["memorisation"] = memorisation_check.summary(spaces, session.video)
  if jax.process_index() == 0:
    _write(content, output, sides, features, copies)
  return content


class Copies(NamedTuple):
  """Closest training clips of the samples, and where they were looked for."""

  spaces: dict[str, memorisation_check.Space]
  training: ClipSet


def _write(
  content: dict[str, Any],
  output: str | os.PathLike | None,
  sides: dict[str, ClipSet],
  features: dict[str, Features],
  copies: Copies | None,
) -> None:
  """Prints the figures, and writes the pages if there is an output."""
  print(page.as_text(content))
  if output is None:
    return
  page.write(output, content, sides, features)
  if copies is not None:
    sheet.write(output, copies.spaces, sides["fake"], copies.training)


def measure(
  session: Session, real: Features, fake: Features
) -> tuple[dict[str, dict], list[str]]:
  """Entries of all metrics of a session, and warnings.

  Raises:
    ValueError: if none can be computed.
  """
  settings, failures = session.settings, session.embed.store.failures
  entries: dict[str, dict] = {}
  # Metrics of one kind share their warnings.
  warned: dict[str, list[str]] = {}
  for metric in session.chosen:
    failed = [failures[name] for name in metric.features if name in failures]
    try:
      if failed:
        raise ValueError(failed[0])
      entry = compute(metric, real, fake, session.spec.fps, settings.seed)
      width = real[metric.features[0]].shape[-1]
      texts = find_warnings(metric, entry, width, settings.protocol)
    except ValueError as error:
      entry = no_entry(metric, str(error))
      texts = [f"left out: {error}"]
    entries[metric.name] = entry
    for text in texts:
      warned.setdefault(text, []).append(metric.name)
  warnings = [f"{', '.join(names)}: {text}" for text, names in warned.items()]
  if all(entry["value"] is None for entry in entries.values()):
    raise ValueError("No metric can be computed. " + " ".join(warnings))
  return entries, warnings


def _find_copies(
  training: ClipSet,
  fake: ClipSet,
  embed: Embedder,
  video: str,
  settings: EvaluationSettings,
) -> dict[str, memorisation_check.Space]:
  """Compares the samples with all clips of the training videos."""
  names = ["thumbnails", "mel_picture", video]
  _, sources = np.unique(
    [clip.source for clip in training.ids], return_inverse=True
  )
  return memorisation_check.compare_clips(
    embed(fake, [*names, f"{video}_mirrored"], "samples"),
    embed(training, names, "training"),
    sources,
    video,
    settings.seed,
  )
