"""The import direction of the project, read from the source."""

import ast
import graphlib
import pathlib
import subprocess
import sys
from collections import defaultdict

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "mmdiff_jax"
# Folders beside the package whose imports count.
TOP_LEVEL = ("configs", "data_prep", "benchmarks", "tests")
# Programs that hand over to the command line, from the roof of the house.
ENTRY_POINTS = ("main", "data_prep.videos_to_tfrecord")

# The rooms from the foundation up, and which of those before it each imports.
# An arrow of the code that is missing here fails, and so does one of this
# table that the code lacks. `benchmarks` and `tests` may import any room.
ROOMS: dict[str, set[str]] = {
  "configs": set(),
  "av": set(),
  "configuration": set(),
  "disk": set(),
  "devices": set(),
  "diffusion": set(),
  "samplers": {"av", "diffusion"},
  "models": {"av"},
  "metric_networks": set(),
  "checkpoint": {"disk", "models"},
  "convert": {"checkpoint", "disk", "metric_networks", "models"},
  "task": {"av", "devices", "diffusion", "models", "samplers"},
  "world": {"av"},
  "media": {"av", "disk"},
  "data": {"av", "disk", "media", "world"},
  "pages": set(),
  "study": {"disk", "media", "pages"},
  "gallery": {"av", "configuration", "disk", "media", "pages", "world"},
  "evaluation": {
    "av",
    "convert",
    "data",
    "disk",
    "media",
    "metric_networks",
    "pages",
  },
  "sampling": {
    "av",
    "checkpoint",
    "configuration",
    "data",
    "devices",
    "disk",
    "media",
    "samplers",
    "task",
  },
  "training": {
    "av",
    "checkpoint",
    "configuration",
    "data",
    "devices",
    "diffusion",
    "disk",
    "media",
    "sampling",
    "task",
  },
  "aot": {"checkpoint", "devices", "disk", "sampling", "task", "training"},
  "mmdiff_jax": {"sampling"},
  "data_prep": {
    "av",
    "data",
    "disk",
    "media",
    "models",
    "world",
  },
  "cli": {
    "aot",
    "checkpoint",
    "configuration",
    "convert",
    "data",
    "data_prep",
    "devices",
    "disk",
    "evaluation",
    "gallery",
    "sampling",
    "study",
    "training",
  },
  "main": {"cli"},
}
FREE = ("benchmarks", "tests")
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


def imported(text, top_level_only=False):
  """Names of the modules and members that a source text imports."""
  tree = ast.parse(text)
  nodes = tree.body if top_level_only else list(ast.walk(tree))
  for node in nodes:
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"line {node.lineno}: relative import"
      for alias in node.names:
        yield f"{node.module}.{alias.name}"


def room_of(name):
  """The room of a dotted name, or None where it is not of this project."""
  if name.startswith(ENTRY_POINTS):
    return "main"
  pieces = name.split(".")
  if pieces[0] in TOP_LEVEL:
    return pieces[0]
  if pieces[0] != "mmdiff_jax":
    return None
  return pieces[1] if len(pieces) > 1 else "mmdiff_jax"


def arrows_of(root):
  """`{room: {room that it imports: where}}` of a checkout."""
  files = [root / "main.py"]
  for folder in ("mmdiff_jax", *TOP_LEVEL):
    files += sorted((root / folder).rglob("*.py"))
  arrows = defaultdict(dict)
  for path in files:
    parts = path.relative_to(root).with_suffix("").parts
    if parts[:2] == ("mmdiff_jax", "__init__"):
      parts = ("mmdiff_jax",)
    name = ".".join(parts)
    room = "main" if name in ENTRY_POINTS else room_of(name)
    arrows[room]  # A room that imports nothing is one too.
    for name in imported(path.read_text()):
      target = room_of(name)
      if target == "mmdiff_jax" and name.count(".") == 1:
        target = name.split(".")[1]  # from mmdiff_jax import task
      if target not in (None, room, "mmdiff_jax"):
        arrows[room].setdefault(target, f"{path}: {name}")
  return arrows


ARROWS = arrows_of(ROOT)


def test_every_room_has_its_place():
  assert set(ARROWS) == set(ROOMS) | set(FREE)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_the_table_says(room):
  found = ARROWS[room]
  extra = {where for name, where in found.items() if name not in ROOMS[room]}
  assert not extra, f"not in the table for {room}: {sorted(extra)}"
  unused = ROOMS[room] - set(found)
  assert not unused, f"granted to {room}, and nobody uses it: {sorted(unused)}"


def test_no_arrow_of_the_code_goes_up():
  floors = list(ROOMS)
  for room in ROOMS:
    for target, where in ARROWS[room].items():
      assert floors.index(target) < floors.index(room), where


def test_no_modules_import_each_other_in_a_ring():
  """Of modules, not only of rooms; imports at call time count as well."""
  modules = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "data_prep").glob("*.py")]
    if path.name != "__init__.py"
  }
  graph = {}
  for name, path in modules.items():
    targets = set()
    for full in imported(path.read_text()):
      for target in (full, full.rpartition(".")[0]):
        if target in modules and target != name:
          targets.add(target)
    graph[name] = targets
  graphlib.TopologicalSorter(graph).prepare()  # Raises where there is a ring.


def test_an_arrow_up_is_found(tmp_path):
  (tmp_path / "mmdiff_jax" / "cli").mkdir(parents=True)
  (tmp_path / "data_prep").mkdir()
  (tmp_path / "main.py").write_text("from mmdiff_jax.cli import main\n")
  (tmp_path / "data_prep" / "flags.py").write_text(
    "def f():\n  from mmdiff_jax.cli import flags\n"
  )
  (tmp_path / "mmdiff_jax" / "cli" / "run.py").write_text("import data_prep\n")
  arrows = arrows_of(tmp_path)
  assert set(arrows["data_prep"]) == {"cli"}
  assert set(arrows["cli"]) == {"data_prep"}
  assert set(arrows["main"]) == {"cli"}


@pytest.mark.parametrize("part", LIGHT_PARTS)
def test_maths_needs_only_the_accelerator_stack(part):
  for path in (PACKAGE / part).rglob("*.py"):
    for name in imported(path.read_text(), top_level_only=True):
      top = name.split(".")[0]
      assert top in LIGHT or top in sys.stdlib_module_names, (path, name)


@pytest.mark.parametrize("part", ["data", "media", "study"])
def test_part_knows_no_jax(part):
  for path in (PACKAGE / part).rglob("*.py"):
    for name in imported(path.read_text()):
      assert name.split(".")[0] not in ("jax", "flax"), (path, name)


PARTS_OF_THE_STUDY = {"building", "serving", "statistics"}


@pytest.mark.parametrize("part", [*sorted(PARTS_OF_THE_STUDY), "."])
def test_parts_of_the_study_share_its_record_alone(part):
  """Its folder, settings, texts and answers know none of the parts."""
  folder = PACKAGE / "study" / part
  files = folder.glob("*.py") if part == "." else folder.rglob("*.py")
  known = PARTS_OF_THE_STUDY - {part}
  for path in files:
    if path.name != "command.py":
      for name in imported(path.read_text()):
        pieces = name.split(".")
        if pieces[:2] == ["mmdiff_jax", "study"]:
          assert pieces[2] not in known, (path, name)


def test_configs_import_only_each_other():
  for path in (ROOT / "configs").glob("*.py"):
    for name in imported(path.read_text()):
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
