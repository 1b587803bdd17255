"""What a folder of clips says of itself: runs of sampling, or bare files."""

import dataclasses
import json
import pathlib
from typing import Any

from mmdiff_jax.disk.checksums import ChangedError, unseal
from mmdiff_jax.disk.files import file_sha256
from mmdiff_jax.media.container import FITS

_LISTING = "samples.json"
_SUFFIXES = (".mp4", ".wav")
# Runs are shown in the order of what they were given.
_ORDER = (None, "audio", "video", "continue")


@dataclasses.dataclass(frozen=True)
class ShownClip:
  """A clip of a folder.

  Attributes:
    file: its path below the folder.
    record: what `samples.json` says of it.
    source: the file that was given, where it is still there as it was.
    upscaled: path of its larger copy below the folder.
  """

  file: str
  record: dict[str, Any]
  source: pathlib.Path | None = None
  upscaled: str | None = None


@dataclasses.dataclass(frozen=True)
class Run:
  """Clips that were made together.

  Attributes:
    name: of its subfolder; "" for the folder itself.
    settings: of `samples.json`; empty without one.
    clips: in the order of `samples.json`, else by name.
  """

  name: str
  settings: dict[str, Any]
  clips: list[ShownClip]

  @property
  def is_sampled(self) -> bool:
    """Whether `sample` made it, as far as its listing tells."""
    return "sample" in self.settings or "condition" in self.settings

  @property
  def fit(self) -> str:
    """How sources were fitted, as far as the listing tells."""
    geometry = self.settings.get("geometry")
    fit = geometry.get("fit") if isinstance(geometry, dict) else None
    return fit if fit in FITS else "pad"


def read_runs(directory: pathlib.Path) -> tuple[list[Run], list[str]]:
  """The runs of a folder, or of its subfolders, and warnings.

  Raises:
    ValueError: if there is no clip.
  """
  if not directory.is_dir():
    raise ValueError(f"{directory} is not a directory; name one with clips.")
  run, warnings = _read_run(directory, "")
  if run.clips:
    return [run], warnings
  runs = []
  for listing in sorted(directory.glob(f"*/{_LISTING}")):
    run, found = _read_run(directory, listing.parent.name)
    runs += [run] if run.clips else []
    warnings += [f"{run.name}: {line}" for line in found]
  if not runs:
    raise ValueError(
      f"{directory} has no mp4 or wav file; expected the output of `sample`."
    )
  return sorted(runs, key=_place), warnings


def _place(run: Run) -> tuple[int, str]:
  condition = run.settings.get("condition")
  known = run.is_sampled and condition in _ORDER
  return _ORDER.index(condition) if known else len(_ORDER), run.name


def _read_run(root: pathlib.Path, name: str) -> tuple[Run, list[str]]:
  folder = root / name
  content, warnings = _read_listing(folder / _LISTING)
  settings = content.get("settings")
  entries = content.get("samples")
  entries = entries if isinstance(entries, list) else []
  entries = [e for e in entries if isinstance(e, dict) and e.get("file")]
  prefix = f"{name}/" if name else ""
  clips, missing = [], []
  for entry in entries:
    file = str(entry["file"])
    if not _is_inside(folder, file):
      missing.append(file)
      continue
    upscaled = str(entry.get("upscaled", ""))
    clips.append(
      ShownClip(
        prefix + file,
        entry,
        _find_source(root, entry),
        prefix + upscaled
        if upscaled and _is_inside(folder, upscaled)
        else None,
      )
    )
  if missing:
    warnings.append(
      f"{len(missing)} of {len(entries)} files that {_LISTING} lists are "
      f"not here, such as {missing[0]}."
    )
  if not clips and not name:
    clips = [ShownClip(file, {}) for file in _media_names(folder)]
  return Run(name, settings if isinstance(settings, dict) else {}, clips), (
    warnings
  )


def _read_listing(path: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
  if not path.exists():
    return {}, []
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    return {}, [f"{_LISTING} cannot be read ({error})."]
  if not isinstance(content, dict):
    return {}, [f"{_LISTING} holds no object; it is ignored."]
  try:
    return unseal(content), []
  except ChangedError as error:
    return content, [f"{_LISTING}: {error}."]


def _is_inside(directory: pathlib.Path, file: str) -> bool:
  path = (directory / file).resolve()
  return path.is_file() and path.is_relative_to(directory.resolve())


def _find_source(
  directory: pathlib.Path, record: dict[str, Any]
) -> pathlib.Path | None:
  """The file that a sample was given, if its checksum is still the same.

  Its path counts from where `sample` ran: tried are the current folder and
  all folders above the samples.
  """
  name, digest = record.get("source"), record.get("source_sha256")
  if not (isinstance(name, str) and isinstance(digest, str) and digest):
    return None
  for start in (pathlib.Path(), *(directory / "_").resolve().parents):
    path = start / name
    if path.is_file():
      return path if file_sha256(path).startswith(digest) else None
  return None


def _media_names(directory: pathlib.Path) -> list[str]:
  """Media by name; a wav beside the mp4 of the same name is its sound."""
  paths = [p for p in directory.iterdir() if p.suffix.lower() in _SUFFIXES]
  videos = {p.stem for p in paths if p.suffix.lower() == ".mp4"}
  return sorted(
    p.name for p in paths if p.suffix.lower() == ".mp4" or p.stem not in videos
  )
