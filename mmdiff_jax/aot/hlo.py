"""What XLA's optimised program says of itself, read from its text."""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+|f8e\w+)\[([\d,]*)\](\{[^{}]*\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(
  r"^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$"
)
_NAME = re.compile(r"%([\w.\-]+)")
# They move nothing, or only name what others move.
FREE = {
  "after-all",
  "bitcast",
  "call",
  "conditional",
  "constant",
  "get-tuple-element",
  "opt-barrier",
  "parameter",
  "tuple",
  "while",
}
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_KERNEL = '"tpu_custom_call"'
_REPORTED = re.compile(r"Memory Space: default.*?Total bytes: (\d+) ", re.S)


class Operation(NamedTuple):
  """One line of a program.

  Attributes:
    name: of its result.
    kind: such as "fusion".
    result: its type as text.
    operands: names.
    traits: the rest of the line.
    root: whether it is what its computation returns.
  """

  name: str
  kind: str
  result: str
  operands: tuple[str, ...]
  traits: str
  root: bool


class Collective(NamedTuple):
  """All collectives of a kind in a program.

  Attributes:
    number: how many run.
    size: bytes of their results on one device, all together.
    moved: bytes that one device receives for them, about.
    largest: bytes of the largest array among the results.
    shape: of that one.
    layer: that asks for it.
  """

  number: int
  size: int
  moved: int
  largest: int
  shape: str
  layer: str


class Program:
  """A program, and how often each of its computations runs.

  Attributes:
    computations: operations by the computation's name.
    entry: name of the one that is called.
    repeats: how often the others run, those alone that run by themselves:
      bodies of loops count by their trips, fusions belong to their callers.
  """

  def __init__(self, text: str):
    """Reads the text of an optimised program."""
    self.computations: dict[str, dict[str, Operation]] = {}
    self.entry = ""
    current: dict[str, Operation] = {}
    for line in text.splitlines():
      if line and not line[0].isspace():
        header = _COMPUTATION.match(line)
        if header:
          current = self.computations.setdefault(header[2], {})
          self.entry = header[2] if header[1] else self.entry
        continue
      match = _OPERATION.match(line)
      if match:
        root, name, result, kind, operands, traits = match.groups()
        if kind == "parameter" or kind == "constant":
          names: tuple[str, ...] = (operands,)
        else:
          names = tuple(_NAME.findall(operands))
        current[name] = Operation(
          name, kind, result, names, traits, root is not None
        )
    self.repeats: collections.Counter[str] = collections.Counter()
    if self.entry:
      self._count(self.entry, 1)

  def _count(self, name: str, times: int) -> None:
    self.repeats[name] += times
    for operation in self.computations[name].values():
      if operation.kind == "while":
        condition = called(operation, "condition")[0]
        trips = self._trips(operation, condition)
        self._count(condition, times * trips)
        self._count(called(operation, "body")[0], times * trips)
      elif operation.kind in ("call", "conditional", "async-start"):
        for name_ in called(
          operation, "to_apply|calls|\\w+_computation|branch_computations"
        ):
          self._count(name_, times)

  def _trips(self, loop: Operation, condition: str) -> int:
    """How often a loop runs; once where its bound is not in the text."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.traits)
    if known:
      return int(known[1])
    bounds = [
      int(operation.operands[0])
      for operation in self.computations[condition].values()
      if operation.kind == "constant" and operation.operands[0].isdigit()
    ]
    return max(bounds, default=1)

  def running(self) -> Iterator[tuple[str, int, Operation]]:
    """(computation, how often, operation) of all that runs."""
    for name, times in self.repeats.items():
      for operation in self.computations[name].values():
        yield name, times, operation


def called(operation: Operation, keys: str) -> list[str]:
  """Computations that an operation names by one of `keys` ("body|to_apply")."""
  found = re.findall(
    rf"\b(?:{keys})=(\{{[^}}]*\}}|%?[\w.\-]+)", operation.traits
  )
  return re.findall(r"[\w.\-]+", " ".join(found))


def array_bytes(text: str) -> list[tuple[int, str, bool]]:
  """(bytes, shape, whether in the main memory) of every array in a type.

  Args:
    text: of the type, such as `(f32[2,3]{1,0:S(1)}, u8[])`: the first of these
      is in a TPU's fast memory, as its layout says.
  """
  found = []
  for kind, dimensions, layout in _ARRAY.findall(text):
    bits = _BITS.get(kind)
    if bits is None:
      bits = 8 if kind.startswith("f8") else int(kind[1:])
    count = math.prod(int(n) for n in dimensions.split(",") if n)
    main = not re.search(r"S\([1-9]\)", layout)
    found.append((math.ceil(count * bits / 8), f"{kind}[{dimensions}]", main))
  return found


def total_bytes(text: str) -> int:
  """Bytes of all arrays in a type."""
  return sum(size for size, _, _ in array_bytes(text))


def layer_of(operation: Operation) -> str:
  """Where in the network an operation comes from, as its name tells.

  The path of modules without what JAX adds to it; "(backward)" behind it for
  what differentiation made. Outside of the network, the name of the primitive.
  """
  source = re.search(r'op_name="((?:[^"\\]|\\.)*)"', operation.traits)
  if source is None:
    return operation.kind
  name = source[1].replace("\\'", "'")
  path = [
    part
    for part in name.split("/")[:-1]
    if re.fullmatch(r"[a-z]\w*", part)
    and part not in ("body", "checkpoint", "cond", "shard_map", "while")
    and part not in ("closed_call", "rematted_computation", "remat")
  ]
  backward = " (backward)" if "transpose(" in name else ""
  return ("/".join(path) or name.split("/")[-1]) + backward


def collectives(program: Program) -> dict[str, Collective]:
  """Counts the collectives of a program by kind."""
  found: dict[str, Collective] = {}
  for name, times, operation in program.running():
    kind = operation.kind.removesuffix("-start")
    if kind not in COLLECTIVES:
      continue
    others = program.computations[name]
    given = sum(
      total_bytes(others[operand].result)
      for operand in operation.operands
      if operand in others
    )
    size = total_bytes(operation.result)
    if operation.kind in ("all-gather-start", "collective-permute-start"):
      size -= given  # Their results begin with the operands.
    received = {"all-reduce": 2 * size, "reduce-scatter": given}
    largest, shape = max(
      (array[:2] for array in array_bytes(operation.result)), default=(0, "")
    )
    before = found.get(kind, Collective(0, 0, 0, -1, "", ""))
    layer = layer_of(operation)
    if largest <= before.largest:
      largest, shape, layer = before.largest, before.shape, before.layer
    found[kind] = Collective(
      number=before.number + times,
      size=before.size + times * size,
      moved=before.moved + times * received.get(kind, size),
      largest=largest,
      shape=shape,
      layer=layer,
    )
  return dict(sorted(found.items()))


def largest_buffers(
  program: Program, count: int = 8
) -> list[tuple[int, str, str]]:
  """(bytes, shape, layer) of the largest values, by layer and shape."""
  seen: dict[tuple[str, str], int] = {}
  for _, _, operation in program.running():
    if operation.kind in FREE or operation.kind.endswith("-done"):
      continue
    layer = layer_of(operation)
    for size, shape, main in array_bytes(operation.result):
      if main:
        seen[shape, layer] = size
  ranked = sorted(seen.items(), key=lambda item: -item[1])[:count]
  return [(size, shape, layer) for (shape, layer), size in ranked]


def reported_memory(report: str) -> int | None:
  """Bytes of a device's main memory that XLA's memory report states."""
  match = _REPORTED.search(report)
  return int(match[1]) if match else None


def cycles_of(operation: Operation) -> int | None:
  """Cycles that XLA:TPU states for an operation; None where it does not."""
  stated = _CYCLES.search(operation.traits)
  # Some are so large that they stand for "unknown".
  return int(stated[1]) if stated and int(stated[1]) < 2**50 else None


def estimated_cycles(program: Program) -> tuple[int, int]:
  """Cycles that XLA:TPU states in all, and how many kernels run without.

  It states them of what it has generated code for, but never of kernels that
  are not its own; collectives wait for others, which it cannot know.
  """
  total = without = 0
  for _, times, operation in program.running():
    total += times * (cycles_of(operation) or 0)
    if operation.kind == "custom-call" and _KERNEL in operation.traits:
      without += times
  return total, without
