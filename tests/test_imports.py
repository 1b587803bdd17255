"""The import direction of the package, read from the source."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "mmdiff_jax"

# The rooms from the foundation up: each may import those that it names, and
# what has no name here (FOUNDATION).
FOUNDATION = {
  "av", "files", "hosts", "leftovers", "locks", "nested", "progress",
}  # fmt: skip
WITHIN_FOUNDATION = {"files": {"leftovers"}, "locks": {"files", "leftovers"}}
ALLOWED = {
  "sharding": set(),
  "memory": set(),
  "diffusion": set(),
  "samplers": {"diffusion"},
  "models": set(),
  "metric_networks": set(),
  "world": set(),
  "data": {"world"},
  "checksums": set(),
  "checkpoint": {"models", "checksums"},
  "convert": {"models", "metric_networks", "checkpoint"},
  "task": {"models", "diffusion", "samplers", "sharding"},
  "sampling": {
    "checksums",
    "diffusion",
    "samplers",
    "models",
    "data",
    "sharding",
    "memory",
    "checkpoint",
    "task",
    "gallery",
  },
  "training": {
    "diffusion",
    "models",
    "data",
    "sharding",
    "memory",
    "checkpoint",
    "task",
    "sampling",
  },
  "aot": {"memory", "sharding", "checkpoint", "task", "sampling", "training"},
  "evaluation": {"data", "metric_networks", "convert", "gallery"},
  "gallery": {"data", "world", "metric_networks"},
  "verify": {"checkpoint", "checksums", "data", "sampling"},
  "study": {"data"},
  "cli": {
    "aot",
    "convert",
    "evaluation",
    "gallery",
    "sampling",
    "sharding",
    "study",
    "training",
    "verify",
  },
}
# Third parties that these parts may import when the module is imported.
LIGHT = {
  "jax",
  "flax",
  "optax",
  "orbax",
  "numpy",
  "ml_collections",
  "mmdiff_jax",
}
LIGHT_PARTS = ("diffusion", "samplers", "models")


def imported(path, top_level_only=False):
  """Names of the modules that a file imports."""
  tree = ast.parse(path.read_text())
  nodes = tree.body if top_level_only else list(ast.walk(tree))
  for node in nodes:
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      for alias in node.names:
        yield f"{node.module}.{alias.name}"


def part_of(path):
  relative = path.relative_to(PACKAGE)
  return relative.parts[0].removesuffix(".py")


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.name))
def test_imports_follow_one_direction(path):
  part = part_of(path)
  if part == "__init__":
    allowed = {"sampling"}  # `load`, when it is called.
  elif part in FOUNDATION:
    allowed = WITHIN_FOUNDATION.get(part, {"av"})
  else:
    assert part in ALLOWED, f"{path} has no place in the import direction"
    allowed = ALLOWED[part] | FOUNDATION | {part}
  for name in imported(path):
    pieces = name.split(".")
    assert pieces[0] not in ("configs", "tests", "benchmarks")
    assert pieces[0] != "data_prep" or part == "cli"
    if pieces[0] == "mmdiff_jax" and len(pieces) > 1:
      assert pieces[1] in allowed, f"{path} imports {name}"


def test_no_arrow_goes_up():
  graphlib.TopologicalSorter(ALLOWED).prepare()  # Raises where there is a ring.


@pytest.mark.parametrize("part", LIGHT_PARTS)
def test_maths_needs_only_the_accelerator_stack(part):
  for path in (PACKAGE / part).rglob("*.py"):
    for name in imported(path, top_level_only=True):
      top = name.split(".")[0]
      assert top in LIGHT or top in sys.stdlib_module_names, (path, name)


@pytest.mark.parametrize("part", ["data", "study"])
def test_part_knows_no_jax(part):
  for path in (PACKAGE / part).rglob("*.py"):
    for name in imported(path):
      assert name.split(".")[0] not in ("jax", "flax"), (path, name)


def test_configs_import_only_each_other():
  for path in (ROOT / "configs").glob("*.py"):
    for name in imported(path):
      assert name.split(".")[0] in ("configs", "ml_collections"), (path, name)


BLOCKED = """
import sys

class Block:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in {
        "av", "clu", "google_crc32c", "grain", "librosa", "PIL",
        "scipy", "soundfile", "tensorboardX", "tqdm"}:
      raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


def test_a_bare_accelerator_machine_can_train():
  code = BLOCKED + (
    "import mmdiff_jax.models, mmdiff_jax.diffusion, mmdiff_jax.samplers\n"
    "import mmdiff_jax.training.loop, mmdiff_jax.convert\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr[-2000:]
