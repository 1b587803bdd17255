"""The gallery: one page with every clip of a folder, to see and to hear.

The page needs no network and no server. Beside it stand the media files and,
in `gallery/`, a picture of each clip; style and script are inside the page.
"""

import html
import os
import pathlib

from mmdiff_jax.disk.files import check_directory, replacing
from mmdiff_jax.disk.leftovers import remove_leftovers
from mmdiff_jax.gallery import cards, drawing, folder, words
from mmdiff_jax.pages import frame, players
from mmdiff_jax.pages.tables import Table


def make_gallery(
  directory: str | os.PathLike,
  output: str | os.PathLike | None = None,
  *,
  onsets: bool = False,
  title: str | None = None,
) -> pathlib.Path:
  """Writes `index.html` with the clips of a folder.

  Below each player stand the frames, the waveform and the mel spectrogram on
  one time axis; beside what was made for something given stands its source,
  where that file is still there. The clips can be sorted by every number or
  word that `samples.json` states of them.

  Args:
    directory: output of `sample`, or any folder of mp4 and wav files. Its
      `samples.json` ({"settings": {...}, "samples": [{"file", ...}]}) gives
      settings, order and facts; without it all files are shown by name. A
      folder without clips shows those of its subfolders that are outputs of
      `sample`: what was made from nothing first.
    output: folder to write to; the media are copied there, so that it can be
      moved alone. By default the page is written into `directory`.
    onsets: mark the impacts that `world.sync` sees and hears (made for
      the sounding shapes), count them among the facts, and show the clips
      first in which they agree.
    title: of the page; by default what made the clips.

  Returns:
    The path of the page.

  Raises:
    ValueError: if the folder has no clip.
  """
  directory = pathlib.Path(directory)
  runs, warnings = folder.read_runs(directory)
  target = directory if output is None else pathlib.Path(output)
  check_directory(target, "folder" if output is None else "--output")
  remove_leftovers(target)
  remove_leftovers(target / drawing.PICTURES)
  (target / drawing.PICTURES).mkdir(parents=True, exist_ok=True)
  drawn = [
    (
      run,
      [
        drawing.draw(directory, target, clip, onsets, run.fit)
        for clip in run.clips
      ],
    )
    for run in runs
  ]
  if title is None:
    title = _title(runs, directory.resolve().name)
  page = frame.document(
    title,
    _body(drawn, onsets),
    header=_header(drawn, warnings, onsets),
    style=frame.asset(__package__, "page.css"),
    script=players.script() + frame.asset(__package__, "page.js"),
    files=True,
    body_class="marked" if onsets else "",
  )
  path = target / "index.html"
  with replacing(path) as temporary:
    # Names may hold bytes that are not text.
    pathlib.Path(temporary).write_text(
      page, encoding="utf-8", errors="backslashreplace"
    )
  return path


def _title(runs: list[folder.Run], name: str) -> str:
  models = {words.model_of(run) for run in runs}
  model = models.pop() if len(models) == 1 else None
  if len(runs) == 1 and model:
    return f"{words.heading(runs[0])}, by the model “{model}”"
  return f"Clips made by the model “{model}”" if model else f"Clips in {name}"


def _header(
  drawn: list[tuple[folder.Run, list[drawing.Drawn]]],
  warnings: list[str],
  onsets: bool,
) -> str:
  lines = [frame.paragraph(line, "warning") for line in warnings]
  return "\n".join([_summary(drawn), *lines, _legend(drawn, onsets)])


def _body(
  drawn: list[tuple[folder.Run, list[drawing.Drawn]]], onsets: bool
) -> str:
  sections, facts = [], []
  for number, (run, clips) in enumerate(drawn):
    listed = sorted(clips, key=_worst_last) if onsets else clips
    made = [cards.make_card(clip, run, i) for i, clip in enumerate(listed)]
    facts += [card.values for card in made]
    sections.append(_section(run, listed, made, number, len(drawn) > 1))
  return "\n".join([_bar(facts, onsets), *sections])


def _worst_last(clip: drawing.Drawn) -> float:
  agreement = clip.result.agreement if clip.result else None
  return 1.0 if agreement is None else -agreement


def _summary(drawn: list[tuple[folder.Run, list[drawing.Drawn]]]) -> str:
  """How much there is; of several runs, where each stands."""
  clips = [clip for _, clips in drawn for clip in clips]
  seconds = sum(c.result.streams.duration for c in clips if c.result)
  text = f"{_count(len(clips))}, {seconds:.1f} s in all."
  links = [
    f'<a href="#run-{i}">{html.escape(_heading(run, True))}</a> ({len(clips)})'
    for i, (run, clips) in enumerate(drawn)
  ]
  if len(links) > 1:
    text += f"</p>\n<p>{' · '.join(links)}"
  return f"<p>{text}</p>"


def _count(clips: int) -> str:
  return "1 clip" if clips == 1 else f"{clips} clips"


def _heading(run: folder.Run, several: bool) -> str:
  """A run's heading; of several runs with its folder's name."""
  text = words.heading(run)
  return f"{text} ({run.name})" if several and run.is_sampled else text


_ROWS = (
  (
    "Frames, waveform, pitch",
    "one time axis for all three, from left to right. Brightness of the lowest "
    "row: loudness within 60 dB of the clip's peak, low pitches at the bottom "
    "(a mel spectrogram).",
  ),
  (
    "White line",
    "where the player is; a click on the picture goes there.",
    "now",
  ),
)
_IMPACTS = (
  ("Turquoise line", "an impact that a detector sees in the pictures.", "seen"),
  ("Orange line", "an impact that a detector hears in the sound.", "heard"),
  (
    "Matched",
    "impacts that are both seen and heard, within a frame. The clips with the "
    "largest share of such impacts (2 × matched / (seen + heard)) stand first.",
  ),
)
_SIZE = (
  "Size",
  "players show every picture at its true size or a whole multiple of it.",
)


def _legend(
  drawn: list[tuple[folder.Run, list[drawing.Drawn]]], onsets: bool
) -> str:
  rows = [*_ROWS, *(_IMPACTS if onsets else ()), _SIZE]
  if not onsets:
    listed = any(run.settings or run.clips[0].record for run, _ in drawn)
    by = "as samples.json lists them" if listed else "by name"
    rows.append(("Order", f"{by}; no measure of quality is at hand."))
  return frame.legend("How to read this page", rows)


def _bar(facts: list[dict[str, object]], onsets: bool) -> str:
  """What sorts and marks; a fact that all clips share sorts nothing."""
  names: list[str] = []
  for values in facts:
    names += [n for n in values if n not in names and n != "place"]
  told = [n for n in names if len({str(v.get(n)) for v in facts}) > 1]
  options = "".join(f"<option>{html.escape(name)}</option>" for name in told)
  first = "impacts that agree" if onsets else "as listed"
  marks = (
    '<button type="button" id="marks" aria-pressed="true">Impacts</button>'
    if onsets
    else ""
  )
  return (
    '<div class="bar"><label>Sort by <select id="sort"><option value="place">'
    f"{first}</option>{options}</select></label>"
    '<button type="button" id="order" aria-pressed="false">Reversed</button>'
    f"{marks}<details><summary>Keys</summary><p><kbd>J</kbd> <kbd>K</kbd> "
    "next, previous clip · <kbd>Space</kbd> play · <kbd>S</kbd> sort · "
    f"<kbd>R</kbd> reverse{' · <kbd>O</kbd> impacts' if onsets else ''}</p>"
    "</details></div>"
  )


def _section(
  run: folder.Run,
  clips: list[drawing.Drawn],
  made: list[cards.Card],
  number: int,
  several: bool,
) -> str:
  geometries = {c.result.streams.geometry for c in clips if c.result}
  size = f", each {geometries.pop()}" if len(geometries) == 1 else ""
  about = f"{_count(len(clips))}{size}. {words.method(run)}"
  rows = [
    (name, words.words(value))
    for name, value in words.settings(run.settings).items()
  ]
  settings = Table("All settings", ("setting", "value"), rows).html()
  details = f"<details><summary>All settings</summary>{settings}</details>"
  return (
    f'<section id="run-{number}"><h2>{html.escape(_heading(run, several))}'
    f"</h2>{frame.paragraph(about, 'note')}{details if rows else ''}"
    f'<ol class="cards">{"".join(card.html for card in made)}</ol></section>'
  )
