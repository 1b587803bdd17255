"""What XLA's optimised program says of itself, read from its text."""

import collections
import math
import re
from typing import NamedTuple

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+|f8e\w+)\[([\d,]*)\]")
_OPERATION = re.compile(
  r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\((?!\))"
)
_MEMORY = re.compile(r"Memory Space: default.*?Total bytes: (\d+)", re.S)


class Collective(NamedTuple):
  """All collectives of a kind in a program.

  Attributes:
    number: how many there are.
    size: bytes of their results on one device, all together.
    largest: bytes of the largest result.
    shape: of that one.
  """

  number: int
  size: int
  largest: int
  shape: str


def array_bytes(text: str) -> list[tuple[int, str]]:
  """(bytes, shape) of every array in a type such as `(f32[2,3], u8[])`."""
  found = []
  for kind, dimensions in _ARRAY.findall(text):
    bits = _BITS.get(kind)
    if bits is None:
      bits = 8 if kind.startswith("f8") else int(kind[1:])
    count = math.prod(int(n) for n in dimensions.split(",") if n)
    found.append((math.ceil(count * bits / 8), f"{kind}[{dimensions}]"))
  return found


def collectives(hlo: str) -> dict[str, Collective]:
  """Counts the collectives of a program by kind.

  Those in the body of a loop count once. Of an asynchronous one, whose start
  returns operands and results, the larger side counts.

  Args:
    hlo: text of the optimised program.
  """
  results = collections.defaultdict(list)
  for line in hlo.splitlines():
    match = _OPERATION.match(line)
    if match is None:
      continue
    kind = match[2].removesuffix("-start")
    if kind in COLLECTIVES:
      results[kind].append(array_bytes(match[1]))
  found = {}
  for kind, arrays in sorted(results.items()):
    largest = max(max(one) for one in arrays if one)
    found[kind] = Collective(
      number=len(arrays),
      size=sum(max(one)[0] for one in arrays if one),
      largest=largest[0],
      shape=largest[1],
    )
  return found


def largest_buffers(hlo: str, count: int = 8) -> list[tuple[int, str, str]]:
  """(bytes, shape, layer) of the largest values of the program's entry."""
  seen: dict[tuple[str, str], int] = {}
  inside = False
  for line in hlo.splitlines():
    if line and not line[0].isspace():
      inside = line.startswith("ENTRY")
    match = _OPERATION.match(line) if inside else None
    if match is None or match[2] in ("parameter", "tuple", "while"):
      continue
    source = re.search(r'op_name="([^"]*)"', line)
    layer = re.sub(r"^jit\(\w+\)/", "", source[1]) if source else match[2]
    for size, shape in array_bytes(match[1]):
      seen[shape, layer] = size
  ranked = sorted(seen.items(), key=lambda item: -item[1])[:count]
  return [(size, shape, layer) for (shape, layer), size in ranked]


def reported_memory(report: str) -> int | None:
  """Bytes that XLA:TPU's memory report states for a chip's main memory."""
  match = _MEMORY.search(report)
  return int(match[1]) if match else None
