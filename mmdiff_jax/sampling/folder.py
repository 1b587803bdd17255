"""The folder that sampling writes: media files and `samples.json`.

`checksums.json` lists them all; `samples.json`, which changes with every batch,
carries its own checksum.
"""

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdiff_jax.av import AVSpec
from mmdiff_jax.configuration import flatten
from mmdiff_jax.disk.checksums import (
  list_entry,
  read_list,
  seal,
  unseal,
  write_list,
)
from mmdiff_jax.disk.files import as_path, list_files, local_copy, write_json
from mmdiff_jax.disk.verify import find_change
from mmdiff_jax.media import reading, writing

_log = logging.getLogger(__name__)

# The file that lists the samples of a folder.
INDEX = "samples.json"
FORMATS = ("mp4", "wav", "png", "gif")
GRID = "grid.gif"
# What an earlier version wrote into each sample's record.
_OLD_CHECKSUMS = "crc32c"
# Clips shown by the gif grid.
GRID_SAMPLES = 16


def check_formats(formats: Sequence[str]) -> None:
  """Raises ValueError for formats that samples cannot be written in."""
  if set(formats) - set(FORMATS) or not formats:
    raise ValueError(
      f"--formats={','.join(formats)}: choose among {', '.join(FORMATS)}."
    )
  if "gif" in formats and "mp4" not in formats:
    raise ValueError("--formats: gif is made from the mp4 files; add mp4.")


class SampleFolder:
  """Writes samples beside each other and remembers how they were made.

  A sample is done once it is listed in `samples.json`, which is rewritten
  (beside, then renamed) after its files and their checksums: an interrupted
  run redoes at most the batch that it was in.
  """

  def __init__(
    self,
    directory: str | pathlib.Path,
    spec: AVSpec,
    formats: Sequence[str],
    settings: Mapping[str, Any],
    information: Mapping[str, Any] | None = None,
  ):
    """Opens a folder of samples.

    Args:
      directory: made where it does not exist.
      spec: frame and sampling rate of the clips.
      formats: of `FORMATS`; the gif is a grid made from the mp4 files.
      settings: what determines the samples, as JSON values.
      information: written beside the settings, but free to change: what the
        samples do not depend on.

    Raises:
      ValueError: for an unknown format, a damaged `samples.json`, or if the
        folder holds samples that were made with other settings.
    """
    check_formats(formats)
    self._directory = as_path(directory)
    self._spec = spec
    self._formats = tuple(formats)
    # Through JSON, so that it compares equal to what is read back.
    self._settings = json.loads(json.dumps(settings))
    self._information = dict(information or {})
    # Entries of `checksums.json`.
    self._files: dict[str, dict] = {}
    self._records = self._read()

  @property
  def _index_path(self) -> pathlib.Path:
    return self._directory / INDEX

  def _read(self) -> dict[str, dict]:
    if not self._index_path.exists():
      return {}
    old, records = _read_index(self._index_path)
    for key in self._information:
      old.pop(key, None)
    changes = _changes(flatten(old), flatten(self._settings))
    if changes:
      raise ValueError(
        f"{self._directory} holds samples made with other settings "
        f"({changes}); give another --output, or remove it."
      )
    self._files = _read_files(self._directory, records)
    for record in records.values():
      record.pop(_OLD_CHECKSUMS, None)
    return records

  def done(self, name: str, identity: Mapping[str, Any]) -> bool:
    """Whether a sample and all files asked for exist already.

    Args:
      name: of the sample.
      identity: the part of its record that tells it from others of its name.

    Raises:
      ValueError: if there is another sample of that name.
    """
    if name not in self._records:
      return False
    record = self._records[name]
    changes = _changes({key: record.get(key) for key in identity}, identity)
    if changes:
      raise ValueError(
        f"{self._directory} holds another {name} ({changes}), made from a "
        "source of the same name; choose another --output."
      )
    files = list(self._file_names(name).values())
    files += filter(None, [record.get("upscaled")])
    return all((self._directory / file).exists() for file in files)

  def _file_names(self, name: str) -> dict[str, str]:
    suffix = {"mp4": ".mp4", "wav": ".wav", "png": ""}
    return {f: name + suffix[f] for f in self._formats if f in suffix}

  def write(
    self,
    name: str,
    video: np.ndarray,
    audio: np.ndarray,
    record: Mapping[str, Any],
  ) -> None:
    """Writes the files of one sample and remembers it.

    Args:
      name: of the files, without suffix.
      video: uint8 `[F, H, W, 3]`.
      audio: `[L, 1]` in [-1, 1].
      record: what `samples.json` says of this sample.
    """
    file = self.write_media(name, video, audio)
    self._records[name] = {"name": name, "file": file, **record}

  def write_media(self, name: str, video: np.ndarray, audio: np.ndarray) -> str:
    """Writes a clip in all formats; returns the name of its main file."""
    names = self._file_names(name)
    rate = self._spec.sample_rate
    if "mp4" in names:
      writing.write_mp4(
        self._directory / names["mp4"],
        video,
        audio,
        fps=self._spec.fps,
        sample_rate=rate,
      )
    if "wav" in names:
      writing.write_wav(self._directory / names["wav"], audio, rate)
    if "png" in names:
      writing.write_png_frames(self._directory / names["png"], video)
    for file in names.values():
      self._files |= _entries(self._directory, file)
    return names.get("mp4") or next(iter(names.values()))

  def write_index(self, statistics: Mapping[str, Any]) -> None:
    """Writes `samples.json`: settings, statistics of the run, samples."""
    content = {
      "settings": self._settings | self._information,
      "statistics": dict(statistics),
      "samples": [self._records[name] for name in sorted(self._records)],
    }
    self._files[INDEX] = {"sealed": []}
    write_list(self._directory, self._files)
    write_json(self._index_path, seal(content))

  def needs_grid(self) -> bool:
    """Whether `grid.gif` is asked for, and not there as it was written."""
    if "gif" not in self._formats or not self._records:
      return False
    path = self._directory / GRID
    entry = self._files.get(GRID)
    return not path.exists() or (
      entry is not None and find_change(path, entry) is not None
    )

  def write_grid(self) -> None:
    """Writes `grid.gif` from the first samples, where gif is asked for."""
    if "gif" not in self._formats:
      return
    names = sorted(self._records)[:GRID_SAMPLES]
    videos = [self._read_video(name) for name in names]
    shapes = {video.shape for video in videos}
    if len(shapes) > 1:
      _log.warning("No grid.gif: the samples have different shapes.")
      return
    writing.write_gif_grid(
      self._directory / GRID, np.stack(videos), fps=self._spec.fps
    )
    self._files |= _entries(self._directory, GRID)
    write_list(self._directory, self._files)

  def _read_video(self, name: str) -> np.ndarray:
    with local_copy(self._directory / f"{name}.mp4") as path:
      return reading.read_media(path).video


def _read_index(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, dict]]:
  """Settings and records, by name, of `samples.json`.

  Raises:
    ValueError: if it is damaged.
  """
  try:
    content = unseal(json.loads(path.read_text()))
    settings = dict(content["settings"])
    records = {record["name"]: record for record in content["samples"]}
    texts = [*settings, *records]
    for record in records.values():
      texts += [record["file"], record.get("upscaled", "")]
      texts += [
        x for pair in record.get(_OLD_CHECKSUMS, {}).items() for x in pair
      ]
    # A checksum is null where it could not be computed.
    if not all(isinstance(text, str | None) for text in texts):
      raise TypeError("a name is not text")
  except (
    AttributeError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
  ) as error:
    raise ValueError(
      f"{path} is not a listing of samples ({type(error).__name__}: {error}); "
      "give another --output, or remove the file to make the samples again."
    ) from error
  return settings, records


def _entries(directory: pathlib.Path, name: str) -> dict[str, dict]:
  """Entries of a file, or of each in a folder, by name below `directory`."""
  path = directory / name
  if path.is_dir():
    return {f"{name}/{f}": list_entry(file) for f, file in list_files(path)}
  return {name: list_entry(path)}


def _read_files(
  directory: pathlib.Path, records: Mapping[str, dict]
) -> dict[str, dict]:
  """Entries of all files of a folder, of whichever version.

  Raises:
    ValueError: if the list is damaged.
  """
  try:
    files = read_list(directory)
  except ValueError as error:
    raise ValueError(
      f"{directory}: {error}; give another --output, or remove that file."
    ) from error
  if files is None:
    return {
      file: {"crc32c": value}
      for record in records.values()
      for file, value in record.get(_OLD_CHECKSUMS, {}).items()
    }
  return files


def verify_samples(directory: str | pathlib.Path) -> list[str]:
  """Reads all files of a folder of samples; returns what is wrong, in lines.

  Raises:
    ValueError: if it holds no samples, or a list of them is damaged.
  """
  folder = as_path(directory)
  _, records = _read_index(folder / INDEX)
  files = _read_files(folder, records)
  problems = []
  for name, record in records.items():
    for file in filter(None, (record["file"], record.get("upscaled"))):
      if file not in files and not any(f.startswith(f"{file}/") for f in files):
        problems.append(f"{name} has no checksum: nothing tells of damage")
  for file, entry in files.items():
    change = find_change(folder / file, entry)
    if change:
      problems.append(f"{folder / file} {change}")
  return problems


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
  """Names the keys that differ, with both values."""
  return "; ".join(
    f"{key}: {old.get(key)!r}, now {new.get(key)!r}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
  )
