"""Cards: a clip with its source, its facts and its pictures, as HTML."""

import html
import json
from typing import Any, NamedTuple

from mmdiff_jax.gallery import drawing, words
from mmdiff_jax.gallery.folder import Run
from mmdiff_jax.pages import frame
from mmdiff_jax.pages.players import player


class Card(NamedTuple):
  """A card, and what the page can sort it by."""

  html: str
  values: dict[str, Any]


def make_card(clip: drawing.Drawn, run: Run, place: int) -> Card:
  """The card of a clip.

  Args:
    clip: as it was drawn.
    run: that it belongs to.
    place: of the clip among those of its run.
  """
  file = clip.clip.file.removeprefix(f"{run.name}/" if run.name else "")
  name = html.escape(file)
  facts = words.facts(clip.clip.record)
  if clip.source is not None:
    facts.pop("known", None)  # The captions say it.
  elif "source" in facts:
    facts["source"] += " (not found here)"
  impacts = _impacts(clip.result)
  values = {"place": place, "file": file, **facts, **impacts}
  if impacts:
    facts["impacts"] = ", ".join(
      f"{count} {what.removeprefix('impacts ')}"
      for what, count in impacts.items()
    )
  pair = clip.source is not None or clip.upscaled is not None
  content = _pair(clip, run, facts) if pair else _single(clip, file, facts)
  return Card(
    f'<li class="card{" pair" if pair else ""}" tabindex="0" data-values="'
    f'{html.escape(json.dumps(values, default=str))}" aria-label="{name}">'
    f"<h3>{name}</h3>{content}</li>",
    values,
  )


def _impacts(side: drawing.Side | None) -> dict[str, int]:
  """How many impacts were seen and heard, where they were looked for."""
  if side is None or side.seen is None or side.heard is None:
    return {}
  counts = {"impacts seen": len(side.seen), "impacts heard": len(side.heard)}
  if side.matched is not None:
    counts["impacts matched"] = side.matched
  return counts


def _single(clip: drawing.Drawn, name: str, facts: dict[str, Any]) -> str:
  if clip.result is None:
    return frame.paragraph(clip.problem or "", "warning") + _facts(facts)
  return (
    f'<figure class="side result"><div class="look">'
    f"{_player(clip.result, name)}{_facts(facts)}</div>"
    f"{_panel(clip.result, name)}</figure>"
  )


def _pair(clip: drawing.Drawn, run: Run, facts: dict[str, Any]) -> str:
  """The source, the result and its larger copy, beside each other."""
  used, made = words.captions(run)
  sides = []
  for kind, side, caption in (
    ("source", clip.source, used),
    ("result", clip.result, made or "Result."),
    ("upscaled", clip.upscaled, "The result, upscaled."),
  ):
    if side is None:
      continue
    name = f"{kind} of {clip.clip.file}"
    sides.append(
      f'<figure class="side {kind}"><figcaption>{html.escape(caption)}'
      f"</figcaption>{_player(side, name)}{_panel(side, name)}</figure>"
    )
  return f'<div class="sides">{"".join(sides)}</div>{_facts(facts)}'


def _player(side: drawing.Side, name: str) -> str:
  return player(side.url, name, side.streams.size, side.streams.poster)


def _panel(side: drawing.Side, name: str) -> str:
  if side.picture is None:
    return ""
  wide = f"--wide:{side.wide}px"
  return (
    f'<div class="panel" style="{wide};--strip:{100 * side.strip:.2f}%">'
    f'<img src="{html.escape(side.picture)}" loading="lazy" alt="Frames, '
    f'waveform and mel spectrogram of {html.escape(name)}">{_marks(side)}'
    '<div class="head"></div></div>'
    f'<div class="axis" style="{wide}"><span>0 s</span>'
    f"<span>{side.streams.duration:.4g} s</span></div>"
  )


def _marks(side: drawing.Side) -> str:
  return "".join(
    f'<div class="mark {kind}" style="left:'
    f'{100 * time / side.streams.duration:.2f}%" '
    f'title="{kind} at {time:.3f} s"></div>'
    for kind, times in (("seen", side.seen), ("heard", side.heard))
    for time in times or ()
  )


def _facts(facts: dict[str, Any]) -> str:
  items = "".join(
    f"<div><dt>{html.escape(name)}</dt>"
    f"<dd>{html.escape(words.words(value))}</dd></div>"
    for name, value in facts.items()
  )
  return f'<dl class="facts">{items}</dl>' if items else ""
