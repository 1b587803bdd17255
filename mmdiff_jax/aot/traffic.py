"""What a program moves to and from a device's main memory, by its text."""

import collections
import re
from typing import NamedTuple

from mmdiff_jax.aot.hlo import FREE, Operation, Program, array_bytes, called

Computation = dict[str, Operation]

_SLICES = ("dynamic-slice", "slice", "gather")
# Written where their first operand lies, and the operand that is written.
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
# Of the others, those that need all of an operand for a part of the result.
_MIXING = (
  "convolution",
  "custom-call",
  "dot",
  "reduce",
  "reduce-window",
  "sort",
)
# Asynchronous operations whose result begins with the operands.
_WITH_OPERANDS = (
  "all-gather-start",
  "collective-permute-start",
  "dynamic-slice-start",
  "slice-start",
)
# A kernel's own statement, in what XLA:TPU writes of a Pallas kernel.
_STATED = re.compile(r'"bytes_accessed":"?(\d+)')


class _Array(NamedTuple):
  """An array of a type: elements, bytes, and whether in the main memory."""

  elements: int
  size: int
  main: bool


def _arrays(text: str) -> list[_Array]:
  found = []
  for size, shape, main in array_bytes(text):
    dimensions = shape[shape.index("[") + 1 : -1]
    elements = 1
    for n in dimensions.split(","):
      elements *= int(n or 1)
    found.append(_Array(elements, size, main))
  return found


def _elements(operation: Operation) -> int:
  return sum(array.elements for array in _arrays(operation.result))


def _share(text: str, elements: int) -> int:
  """Bytes in the main memory of so many elements of a value."""
  total = 0
  for array in _arrays(text):
    if array.main and array.elements:
      part = min(elements, array.elements)
      total += -(-array.size * part // array.elements)
  return total


def traffic(program: Program) -> int:
  """Bytes that the program reads from and writes to the main memory.

  An estimate: what each operation reads and writes after fusion, as often as
  it runs, but for what a TPU keeps in its fast memory. Of an array that is
  read or written in slices, the slices count, however deep in fusions; a
  Pallas kernel counts what it states. Caches that hold the values of more
  than one operation are left out, and so is what one operation reads twice.
  """
  return sum(
    times * moved(program, program.computations[name], operation)
    for name, times, operation in program.running()
  )


def moved(
  program: Program, computation: Computation, operation: Operation
) -> int:
  """Bytes that one operation moves each time it runs.

  Args:
    program: of the operation.
    computation: that it stands in.
    operation: one that runs by itself, not within a fusion.
  """
  kind = operation.kind
  if kind in FREE or kind.endswith(("-done", "-update")):
    return 0
  if kind == "async-start" or '"AllocateBuffer"' in operation.traits:
    return 0  # The former starts a computation, which is counted itself.
  stated = _STATED.search(operation.traits) if kind == "custom-call" else None
  if stated:
    return int(stated[1])
  if kind.endswith("-start"):
    return _started(computation, operation)
  if kind == "fusion":
    inner = program.computations[called(operation, "calls")[0]]
    reads = _parameters_read(program, inner, None, True)
    read = _operands_read(computation, operation, reads)
    return read + _fusion_written(program, inner, operation)
  needs = _needs(program, operation, _elements(operation), computation, True)
  reads = dict(enumerate(needs))
  written = _share(operation.result, _written(program, computation, operation))
  return _operands_read(computation, operation, reads) + written


def _operands_read(
  computation: Computation, operation: Operation, reads: dict[int, int]
) -> int:
  """Bytes read, by elements read of each operand; none is read twice."""
  elements: collections.Counter[str] = collections.Counter()
  for index, name in enumerate(operation.operands):
    if name in computation:
      elements[name] += reads.get(index, 0)
  return sum(
    _share(computation[name].result, count) for name, count in elements.items()
  )


def _started(computation: Computation, operation: Operation) -> int:
  """Bytes that an asynchronous copy, slice or collective moves."""
  kind, arrays = operation.kind, _arrays(operation.result)
  operands = [
    array
    for name in operation.operands
    if name in computation
    for array in _arrays(computation[name].result)
  ]
  if kind == "copy-start":
    return sum(array.size for array in arrays[:2] if array.main)
  made = arrays
  if kind in _WITH_OPERANDS:
    # Behind the results come flags.
    count = 1 if "slice" in kind else len(operands)
    made = arrays[len(operands) : len(operands) + count]
  written = sum(array.size for array in made if array.main)
  if "slice" in kind:
    return written + (made[0].size if operands[0].main else 0)
  return written + sum(array.size for array in operands if array.main)


def _parameters_read(
  program: Program, inner: Computation, wanted: int | None, in_place: bool
) -> dict[int, int]:
  """Elements of each parameter that a fusion reads.

  Args:
    program: of the fusion.
    inner: what it computes.
    wanted: elements of its result that are needed; None is all.
    in_place: whether an update of a slice is written where the array lies.
  """
  returned = _returned(inner) if in_place else set()
  needed: collections.Counter[str] = collections.Counter()
  reads = {}
  for operation in reversed(inner.values()):
    whole = _elements(operation)
    if operation.root:
      needed[operation.name] = whole if wanted is None else wanted
    count = min(needed[operation.name], whole)
    if operation.kind == "parameter":
      reads[int(operation.operands[0])] = count
    elif count and operation.kind != "constant":
      needs = _needs(
        program, operation, count, inner, operation.name in returned
      )
      for name, need in zip(operation.operands, needs, strict=True):
        needed[name] += need
  return reads


def _needs(
  program: Program,
  operation: Operation,
  count: int,
  others: Computation,
  in_place: bool,
) -> list[int]:
  """Elements of each operand that so many elements of the result need."""
  kind, names = operation.kind, operation.operands
  sizes = [_elements(others[n]) if n in others else 0 for n in names]
  if kind == "fusion":
    inner = program.computations[called(operation, "calls")[0]]
    reads = _parameters_read(program, inner, count, in_place)
    return [min(n, reads.get(i, 0)) for i, n in enumerate(sizes)]
  if kind in _SLICES:
    return [min(count, sizes[0]), *sizes[1:]]
  if kind in _UPDATES and len(sizes) > _UPDATES[kind]:
    update = sizes[_UPDATES[kind]]
    kept = max(0, count - update)
    if in_place:
      # A sum is read where it is written; a plain update is not.
      kept = update if kind == "scatter" else 0
    return [kept, *sizes[1:]]
  if kind in _MIXING or kind == "tuple":
    return sizes
  # Elementwise, or moved: as many elements as are needed; or repeated.
  whole = _elements(operation)
  return [
    min(n, count) if n == whole or kind in ("concatenate", "pad") else n
    for n in sizes
  ]


def _returned(inner: Computation) -> set[str]:
  """Names of what a fusion returns, but for bitcasts and updates of it."""
  found: set[str] = set()
  waiting = [name for name, operation in inner.items() if operation.root]
  while waiting:
    name = waiting.pop()
    operation = inner.get(name)
    if operation is None or name in found:
      continue
    found.add(name)
    if operation.kind == "tuple":
      waiting += operation.operands
    elif operation.kind == "bitcast" or operation.kind in _UPDATES:
      waiting.append(operation.operands[0])
  return found


def _fusion_written(
  program: Program, inner: Computation, fusion: Operation
) -> int:
  """Bytes that a fusion writes, by what it returns and where to."""
  root = next(operation for operation in inner.values() if operation.root)
  roots = [root]
  if root.kind == "tuple":
    roots = [inner[name] for name in root.operands]
  arrays = _arrays(fusion.result)
  if len(arrays) != len(roots):
    return sum(array.size for array in arrays if array.main)
  total = 0
  for array, operation in zip(arrays, roots, strict=True):
    if array.main and array.elements:
      count = min(array.elements, _written(program, inner, operation))
      total += -(-array.size * count // array.elements)
  return total


def _written(
  program: Program, others: Computation, operation: Operation
) -> int:
  """Elements that an operation writes."""
  kind = operation.kind
  if kind == "bitcast" and operation.operands[0] in others:
    return _written(program, others, others[operation.operands[0]])
  if kind in _UPDATES and len(operation.operands) > _UPDATES[kind]:
    update = others.get(operation.operands[_UPDATES[kind]])
    first = others.get(operation.operands[0])
    if update is not None:
      before = first is not None and first.kind in _UPDATES
      more = _written(program, others, first) if first and before else 0
      return _elements(update) + more
  if kind == "fusion":
    inner = program.computations[called(operation, "calls")[0]]
    root = next(one for one in inner.values() if one.root)
    if root.kind != "tuple":
      return _written(program, inner, root)
  return _elements(operation)
