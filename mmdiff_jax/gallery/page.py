"""The gallery: one page with every clip of a folder, to see and to hear.

The page needs no network and no server. Beside it stand the media files and,
in `gallery/`, a picture of each clip; style and script are inside the page.
"""

import base64
import dataclasses
import hashlib
import html
import importlib.resources
import json
import os
import pathlib
import shutil
from typing import NamedTuple

import numpy as np

from mmdiff_jax.files import check_directory, replacing
from mmdiff_jax.gallery import picture
from mmdiff_jax.leftovers import remove_leftovers
from mmdiff_jax.world import sync

_PICTURES = "gallery"
_SUFFIXES = (".mp4", ".wav")
# Keys of a listed sample that say nothing of it to people.
_UNSHOWN = ("file", "crc32c")
# Frames below this width are enlarged without smoothing.
_PIXELATED_BELOW = 96


@dataclasses.dataclass
class _Item:
  """A clip of the page: its file, what samples.json says, what is drawn."""

  file: str
  facts: dict
  kind: str = "video"
  picture: str | None = None
  strip: float = 0.0
  small: bool = False
  duration: float = 0.0
  seen: tuple[float, ...] = ()
  heard: tuple[float, ...] = ()
  problem: str | None = None


def make_gallery(
  directory: str | os.PathLike,
  output: str | os.PathLike | None = None,
  *,
  onsets: bool = False,
  title: str | None = None,
) -> pathlib.Path:
  """Writes `index.html` with the clips of a folder.

  Under each player stand the frames, the waveform and the mel spectrogram on
  one time axis. The clips can be sorted by every number or word that
  `samples.json` states of them.

  Args:
    directory: output of `sample`, or any folder of mp4 and wav files. Its
      `samples.json` ({"settings": {...}, "samples": [{"file", ...}]}) gives
      settings, order and facts; without it all files are shown by name. A
      folder without clips shows those of its subfolders that are outputs of
      `sample`, one after the other.
    output: folder to write to; the media are copied there, so that it can be
      moved alone. By default the page is written into `directory`.
    onsets: mark the impacts that `world.sync` sees and hears (made for
      the sounding shapes), and count them among the facts.
    title: of the page; by default the name of the folder.

  Returns:
    The path of the page.

  Raises:
    ValueError: if the folder has no clip.
  """
  directory = pathlib.Path(directory)
  if not directory.is_dir():
    raise ValueError(f"{directory} is not a directory; name one with clips.")
  settings, items, warnings = _read_samples(directory)
  if not items:
    settings, items, warnings = _read_subfolders(directory)
  if not items:
    raise ValueError(
      f"{directory} has no mp4 or wav file; expected the output of `sample`."
    )
  target = directory if output is None else pathlib.Path(output)
  check_directory(target, "folder" if output is None else "--output")
  remove_leftovers(target)
  remove_leftovers(target / _PICTURES)
  (target / _PICTURES).mkdir(parents=True, exist_ok=True)
  for item in items:
    _draw(directory, target, item, onsets)
    if target.resolve() != directory.resolve():
      destination = target / item.file
      destination.parent.mkdir(parents=True, exist_ok=True)
      with replacing(destination) as temporary:
        shutil.copyfile(directory / item.file, temporary)
  page = _render(
    title or directory.resolve().name, settings, items, warnings, onsets
  )
  path = target / "index.html"
  with replacing(path) as temporary:
    # Names may hold bytes that are no text.
    pathlib.Path(temporary).write_text(
      page, encoding="utf-8", errors="backslashreplace"
    )
  return path


def _read_samples(
  directory: pathlib.Path,
) -> tuple[dict, list[_Item], list[str]]:
  """Settings, clips and warnings of a folder, whatever of it is there."""
  warnings = []
  listing = directory / "samples.json"
  content = {}
  if listing.exists():
    try:
      content = json.loads(listing.read_text(encoding="utf-8"))
    except ValueError as error:
      warnings.append(f"samples.json cannot be read ({error}).")
    if not isinstance(content, dict):
      warnings.append("samples.json holds no object; it is ignored.")
      content = {}
  settings = content.get("settings")
  entries = content.get("samples")
  entries = entries if isinstance(entries, list) else []
  entries = [e for e in entries if isinstance(e, dict) and e.get("file")]
  items, missing = [], []
  for entry in entries:
    file = str(entry["file"])
    if _is_inside(directory, file):
      shown = {k: v for k, v in entry.items() if k not in _UNSHOWN}
      facts = _flatten(shown)
      items.append(_Item(file, facts))
    else:
      missing.append(file)
  if missing:
    warnings.append(
      f"{len(missing)} of {len(entries)} files that samples.json lists are "
      f"not here, such as {missing[0]}."
    )
  if not items:
    items = [_Item(name, {}) for name in _media_names(directory)]
  return _flatten(settings or {}), items, warnings


def _read_subfolders(
  directory: pathlib.Path,
) -> tuple[dict, list[_Item], list[str]]:
  """`_read_samples` of every subfolder that has a `samples.json`."""
  settings: dict = {}
  items, warnings = [], []
  for listing in sorted(directory.glob("*/samples.json")):
    name = listing.parent.name
    inner_settings, inner_items, inner_warnings = _read_samples(listing.parent)
    settings |= {f"{name}: {key}": v for key, v in inner_settings.items()}
    warnings += [f"{name}: {line}" for line in inner_warnings]
    for item in inner_items:
      item.file = f"{name}/{item.file}"
      item.facts = {"run": name, **item.facts}
    items += inner_items
  return settings, items, warnings


def _is_inside(directory: pathlib.Path, file: str) -> bool:
  path = (directory / file).resolve()
  return path.is_file() and path.is_relative_to(directory.resolve())


def _media_names(directory: pathlib.Path) -> list[str]:
  """Media by name; a wav beside the mp4 of the same name is its sound."""
  paths = [p for p in directory.iterdir() if p.suffix.lower() in _SUFFIXES]
  videos = {p.stem for p in paths if p.suffix.lower() == ".mp4"}
  return sorted(
    p.name for p in paths if p.suffix.lower() == ".mp4" or p.stem not in videos
  )


def _flatten(value: object, prefix: str = "") -> dict:
  """Nested dictionaries as one of dotted names; lists as their JSON."""
  if not isinstance(value, dict):
    return {prefix or "value": value}
  flat = {}
  for key, inner in value.items():
    name = f"{prefix}.{key}" if prefix else str(key)
    if isinstance(inner, dict):
      flat.update(_flatten(inner, name))
    elif isinstance(inner, list):
      flat[name] = json.dumps(inner)
    else:
      flat[name] = inner
  return flat


class _Streams(NamedTuple):
  """What a file holds; a stream that is absent has no rate."""

  video: np.ndarray | None
  audio: np.ndarray | None
  fps: float | None
  sample_rate: int | None

  @property
  def duration(self) -> float:
    """In seconds."""
    if self.video is not None and self.fps is not None:
      return len(self.video) / self.fps
    assert self.audio is not None and self.sample_rate is not None
    return len(self.audio) / self.sample_rate


def _read_streams(path: pathlib.Path) -> _Streams:
  from mmdiff_jax.data import media

  if path.suffix.lower() == ".wav":
    audio, rate = media.read_audio(path)
    return _Streams(None, audio, None, rate)
  clip = media.read_media(path)
  sound = clip.audio, clip.sample_rate
  # The wav beside it has the sound before compression.
  if path.with_suffix(".wav").is_file():
    sound = media.read_audio(path.with_suffix(".wav"))
  return _Streams(clip.video, sound[0], clip.fps, sound[1])


def _draw(
  directory: pathlib.Path, target: pathlib.Path, item: _Item, onsets: bool
) -> None:
  """Writes the picture of a clip; a damaged file becomes a note instead."""
  source = directory / item.file
  try:
    streams = _read_streams(source)
  except ValueError as error:
    item.problem = str(error).removeprefix(f"{source}: ")
    return
  video, audio = streams.video, streams.audio
  item.kind = "audio" if video is None else "video"
  item.duration = streams.duration
  name = f"{_PICTURES}/{item.file.replace('/', '_')}.png"
  drawn = picture.render_clip(video, audio, streams.sample_rate)
  with replacing(target / name) as temporary:
    drawn.save(temporary, format="png", optimize=True)
  item.picture = name
  item.strip = picture.strip_share(video, audio is not None)
  item.small = video is not None and video.shape[2] < _PIXELATED_BELOW
  if onsets:
    _mark(item, streams)


def _mark(item: _Item, streams: _Streams) -> None:
  """Counts the impacts among the facts, and lists their times."""
  seen, heard = picture.find_events(*streams)
  item.seen, item.heard = tuple(seen.tolist()), tuple(heard.tolist())
  if streams.audio is not None and streams.fps is not None:
    matched = sync.match(
      sync.Events(seen, ("",) * len(seen)),
      sync.Events(heard, ("",) * len(heard)),
      tolerance=1 / streams.fps,
    )
    item.facts |= {
      "impacts seen": len(seen),
      "impacts heard": len(heard),
      "impacts matched": len(matched),
    }


def _render(
  title: str,
  settings: dict,
  items: list[_Item],
  warnings: list[str],
  onsets: bool,
) -> str:
  template = importlib.resources.files(__package__) / "page.html"
  names = ["listed", "file"]
  for item in items:
    names += [name for name in item.facts if name not in names]
  escape = html.escape
  toggle = (
    '<label><input type="checkbox" id="marks" checked> Mark impacts '
    "(seen: turquoise, heard: orange)</label>"
  )
  duration = sum(item.duration for item in items)
  parts = {
    "title": escape(title),
    "summary": f"{len(items)} clips, {duration:.1f} s in all",
    "warnings": "\n".join(
      f'<p class="note warning">{escape(line)}</p>' for line in warnings
    ),
    "settings": _settings_table(settings),
    "sort_options": "".join(f"<option>{escape(n)}</option>" for n in names),
    "marks_toggle": toggle if onsets else "",
    "marks_key": " · <kbd>O</kbd> marks" if onsets else "",
    "body_class": ' class="marked"' if onsets else "",
    "cards": "\n".join(_card(item, i) for i, item in enumerate(items)),
  }
  text = template.read_text(encoding="utf-8")
  parts["script_hash"] = _script_hash(text)
  # Split at the placeholders once, so that inserted text is never expanded.
  before, *pieces = text.split("{{")
  for piece in pieces:
    name, after = piece.split("}}", 1)
    before += parts[name] + after
  return before


def _script_hash(page: str) -> str:
  """Names a page's script, so that the browser runs this one and no other."""
  script = page.partition("<script>")[2].partition("</script>")[0]
  digest = hashlib.sha256(script.encode()).digest()
  return f"sha256-{base64.b64encode(digest).decode()}"


def _settings_table(settings: dict) -> str:
  if not settings:
    return ""
  return f"<details><summary>Settings</summary>{_table(settings)}</details>"


def _table(values: dict) -> str:
  rows = "".join(
    f"<tr><th>{html.escape(name)}</th><td>{html.escape(_words(value))}</td>"
    for name, value in values.items()
    if value is not None
  )
  return f"<table>{rows}</table>"


def _card(item: _Item, place: int) -> str:
  escape = html.escape
  facts = {"file": item.file, **item.facts, "listed": place}
  values = escape(json.dumps(facts, default=str))
  name = escape(item.file)
  player = panel = ""
  if item.picture is None:
    player = f'<p class="note warning">{escape(item.problem or "")}</p>'
  else:
    source = escape(_url(item.file))
    small = ' class="small"' if item.small else ""
    inline = " playsinline" if item.kind == "video" else ""
    player = (
      f'<{item.kind} src="{source}" controls loop preload="none"'
      f' aria-label="{name}"{small}{inline}></{item.kind}>'
    )
    panel = (
      f'<div class="panel" style="--strip:{100 * item.strip:.2f}%">'
      f'<img src="{escape(_url(item.picture))}" loading="lazy" alt="Frames, '
      f'waveform and mel spectrogram of {name}">{_marks(item)}'
      f'<div class="head"></div></div>'
    )
  return (
    f'<li class="card" tabindex="0" data-values="{values}"'
    f' aria-label="{name}"><h2>{name}</h2>'
    f"<div>{player}</div>{_table(item.facts)}{panel}</li>"
  )


def _marks(item: _Item) -> str:
  return "".join(
    f'<div class="mark {kind}" style="left:{100 * t / item.duration:.2f}%"'
    f' title="{kind} at {t:.3f} s"></div>'
    for kind, times in (("seen", item.seen), ("heard", item.heard))
    for t in times
  )


def _url(file: str) -> str:
  """Relative address of a file; names may hold any character."""
  from urllib.parse import quote

  return quote(os.fsencode(pathlib.PurePath(file).as_posix()))


def _words(value: object) -> str:
  if isinstance(value, float):
    return f"{value:.6g}"
  return str(value)
