"""Files that say what is known of videos, by their names.

A name is the video's path below its folder, as in "waves/clip_01.mp4"; its
suffix may be left out where no other video has the same path without it.
"""

import csv
import difflib
import io
import itertools
import json
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

import numpy as np

from mmdiff_jax.disk.files import as_path, local_copy
from mmdiff_jax.disk.safetensors import load_safetensors

T = TypeVar("T")

_COLUMNS = ("name", "caption")
# A name that no video has is compared with so many.
_COMPARED = 20_000
_MAX_CAPTION = 1 << 20


def read_captions(path: str | os.PathLike) -> dict[str, tuple[str, ...]]:
  """Reads captions, any number for each name.

  Args:
    path: a .csv file with the columns `name` and `caption` in its first line,
      or a .jsonl file with an object of these keys in each line, where
      `caption` may be a list.

  Raises:
    ValueError: for a file of another kind, and for a line without a name or a
      caption; it says which.
    OSError: if there is no such file.
  """
  where = os.fspath(path)
  readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
  reader = readers.get(as_path(path).suffix.lower())
  if reader is None:
    raise ValueError(
      f"--captions={where}: give a .csv file with the columns name and "
      "caption, or a .jsonl file with these keys."
    )
  if not as_path(path).is_file():
    raise FileNotFoundError(f"--captions={where} does not exist.")
  try:
    text = as_path(path).read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"{where} is not UTF-8 text ({error.reason}).") from error
  captions: dict[str, tuple[str, ...]] = {}
  for line, name, caption in reader(where, text):
    for what, value in zip(_COLUMNS, (name, caption), strict=True):
      if not isinstance(value, str) or not value.strip():
        raise ValueError(
          f"{where}, line {line}: the {what} is empty or not a text; fill it "
          "in, or leave the line out: videos without a caption are fine."
        )
    captions[name] = (*captions.get(name, ()), caption.strip())
  if not captions:
    raise ValueError(f"{where} holds no caption.")
  return captions


def _csv_rows(where: str, text: str) -> Iterator[tuple[int, str, str]]:
  csv.field_size_limit(_MAX_CAPTION)
  rows = csv.reader(io.StringIO(text), strict=True)
  try:
    header = [cell.strip().lower() for cell in next(rows, [])]
    if not set(_COLUMNS) <= set(header):
      raise ValueError(
        f"{where}, line 1: the columns are {', '.join(header) or 'absent'}; "
        "name and caption are needed."
      )
    places = [header.index(column) for column in _COLUMNS]
    for row in rows:
      if row:
        name, caption = (row[i] if i < len(row) else "" for i in places)
        yield rows.line_num, name, caption
  except csv.Error as error:
    raise ValueError(f"{where}, line {rows.line_num}: {error}.") from error


def _jsonl_rows(where: str, text: str) -> Iterator[tuple[int, str, str]]:
  for line, content in enumerate(text.split("\n"), start=1):
    if not content.strip():
      continue
    try:
      row = json.loads(content)
      name, captions = (row[column] for column in _COLUMNS)
    except (ValueError, RecursionError) as error:
      raise ValueError(
        f"{where}, line {line} is not JSON ({error})."
      ) from error
    except (TypeError, KeyError) as error:
      raise ValueError(
        f"{where}, line {line} is not an object with name and caption."
      ) from error
    for caption in captions if isinstance(captions, list) else [captions]:
      yield line, name, caption


def read_embeddings(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a vector for each name.

  Args:
    path: a .safetensors or .npz file with an array `[D]` under each name; an
      .npz file may hold `names` `[N]` and `embeddings` `[N, D]` instead.

  Returns:
    float32 arrays, all `[D]`.

  Raises:
    ValueError: for a file of another kind, and arrays that are not finite
      vectors of one width.
    OSError: if there is no such file.
  """
  where = os.fspath(path)
  suffix = as_path(path).suffix.lower()
  if suffix not in (".npz", ".safetensors"):
    raise ValueError(
      f"--embeddings={where}: give a .npz or .safetensors file with a vector "
      "under each video's name."
    )
  with local_copy(path) as local:
    if not local.is_file():
      raise FileNotFoundError(f"--embeddings={where} does not exist.")
    if suffix == ".npz":
      arrays = _npz_arrays(where, local)
    else:
      arrays = load_safetensors(local)
  vectors = {name: _as_vector(where, name, x) for name, x in arrays.items()}
  widths = {len(vector): name for name, vector in reversed(vectors.items())}
  if len(widths) > 1:
    pairs = ", ".join(f"{width} ({name!r})" for width, name in widths.items())
    raise ValueError(f"{where}: the vectors have different widths: {pairs}.")
  if not vectors:
    raise ValueError(f"{where} holds no vector.")
  return vectors


def _npz_arrays(where: str, local: os.PathLike) -> dict[str, np.ndarray]:
  try:
    with np.load(local, allow_pickle=False) as file:
      arrays = dict(file)
  except (ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
    what = str(error).split("\n")[0]
    raise ValueError(f"{where} cannot be read as .npz ({what}).") from error
  if arrays.keys() != {"names", "embeddings"}:
    return arrays
  names, rows = arrays["names"], arrays["embeddings"]
  if names.dtype.kind != "U" or names.ndim != 1 or len(names) != len(rows):
    raise ValueError(
      f"{where}: names {names.dtype}{list(names.shape)} must be one text for "
      f"each row of embeddings {list(rows.shape)}."
    )
  if len(set(names)) < len(names):
    raise ValueError(f"{where}: names holds the same name twice.")
  return dict(zip(names.tolist(), rows, strict=True))


def _as_vector(where: str, name: str, array: np.ndarray) -> np.ndarray:
  if array.ndim == 2 and len(array) == 1:
    array = array[0]
  number = array.dtype.kind in "fiu" or array.dtype.name == "bfloat16"
  if array.ndim != 1 or not array.size or not number:
    raise ValueError(
      f"{where}: {name!r} is {array.dtype}{list(array.shape)}; a video's "
      "embedding is a vector of numbers, [D]."
    )
  with np.errstate(over="ignore"):
    vector = array.astype(np.float32)
  if not np.isfinite(vector).all():
    raise ValueError(f"{where}: {name!r} holds NaN or infinite numbers.")
  return vector


def match(
  found: Mapping[str, T], videos: Collection[str], where: str
) -> dict[str, T]:
  """Values by the names of videos, from values by names of a file.

  Args:
    found: what the file holds.
    videos: names of all videos.
    where: the file, for errors.

  Raises:
    ValueError: for a name that no video has, that several have without their
      suffix, and for two names of one video.
  """
  stems: dict[str, list[str]] = {}
  for video in videos:
    stems.setdefault(os.path.splitext(video)[0], []).append(video)
  matched: dict[str, T] = {}
  known = set(videos)
  for name, value in found.items():
    candidates = [name] if name in known else stems.get(name, [])
    if not candidates:
      raise ValueError(_missing(name, found, known, stems, where))
    if len(candidates) > 1:
      raise ValueError(
        f"{where}: {name!r} may be {' or '.join(map(repr, candidates))}; give "
        "the suffix, too."
      )
    if candidates[0] in matched:
      raise ValueError(
        f"{where} names {candidates[0]!r} twice, with its suffix and without."
      )
    matched[candidates[0]] = value
  return matched


def _missing(
  name: str,
  found: Mapping[str, T],
  known: Collection[str],
  stems: Mapping[str, list[str]],
  where: str,
) -> str:
  """The error for a name that no video has, with what was perhaps meant."""
  absent = sum(each not in known and each not in stems for each in found)
  more = f" (and {absent - 1} more of its names)" if absent > 1 else ""
  some = sorted(itertools.islice(known, _COMPARED))
  close = difflib.get_close_matches(name, some, 1)
  hint = f"; did you mean {close[0]!r}?" if close else "."
  return (
    f"{where}: {name!r}{more} is none of the {len(known)} videos. Names are "
    f"paths below their folder{hint}"
  )
