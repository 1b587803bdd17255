"""What a program moves to and from a device's main memory, by its text."""

import collections

from mmdiff_jax.aot.hlo import FREE, Operation, Program, called, total_bytes


def traffic(program: Program) -> int:
  """Bytes that the program reads from and writes to the main memory.

  An estimate: what each operation reads and writes after fusion, as often as
  it runs, but for what a TPU keeps in its fast memory. Of an array that is
  read or written in slices the slices count. Caches that hold more than one
  operation's values are left out of account.
  """
  total = 0
  for name, times, operation in program.running():
    kind = operation.kind
    if kind in FREE or kind.endswith(("-done", "-update")):
      continue
    if kind == "async-start":
      continue  # What it starts is a computation of its own.
    others = program.computations[name]
    if kind.endswith("-start"):
      moved = _main(operation.result)  # Operands are part of it.
    elif kind == "fusion":
      moved = _fusion_traffic(program, operation, others)
    else:
      moved = _written(operation, others)
      moved += sum(
        _read(operation, operand, others)
        for operand in _known(operation, others)
      )
    total += times * moved
  return total


def _known(
  operation: Operation, computation: dict[str, Operation]
) -> list[str]:
  """Its operands that are known, each once."""
  return [
    name for name in dict.fromkeys(operation.operands) if name in computation
  ]


def _fusion_traffic(
  program: Program, fusion: Operation, others: dict[str, Operation]
) -> int:
  """Bytes that a fusion reads and writes."""
  inner = program.computations[called(fusion, "calls")[0]]
  users = collections.defaultdict(list)
  for operation in inner.values():
    for operand in operation.operands:
      users[operand].append(operation)

  def read(name: str) -> int:
    total = 0
    for user in users[name]:
      if user.kind == "bitcast":
        total += read(user.name)
      else:
        total += _read(user, name, inner)
    return total

  moved = 0
  for operation in inner.values():
    if operation.kind == "parameter":
      index = int(operation.operands[0])
      if index < len(fusion.operands):
        outer = others.get(fusion.operands[index])
        whole = _main(outer.result) if outer else _main(operation.result)
        moved += min(whole, read(operation.name))
    if operation.root:
      moved += min(_main(fusion.result), _root_written(operation, inner))
  return moved


def _root_written(root: Operation, inner: dict[str, Operation]) -> int:
  """Bytes that a fusion writes, by what it returns."""
  if root.kind == "tuple":
    return sum(
      _root_written(inner[name], inner)
      for name in root.operands
      if name in inner
    )
  if root.kind == "bitcast" and root.operands[0] in inner:
    return _root_written(inner[root.operands[0]], inner)
  return _written(root, inner)


def _written(operation: Operation, others: dict[str, Operation]) -> int:
  if (
    operation.kind == "dynamic-update-slice" and operation.operands[1] in others
  ):
    return _main(others[operation.operands[1]].result)
  return _main(operation.result)


def _read(user: Operation, name: str, others: dict[str, Operation]) -> int:
  """Bytes of the value `name` that an operation reads."""
  if user.kind in ("dynamic-slice", "slice", "gather"):
    return _main(user.result)
  if user.kind == "dynamic-update-slice" and user.operands[0] == name:
    return 0  # Written in place.
  return _main(others[name].result)


def _main(text: str) -> int:
  """Bytes of a type's arrays in the main memory."""
  return total_bytes(text, fast=False)
