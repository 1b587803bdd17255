"""The program's commands on tiny inputs, and what each should leave."""

import dataclasses
import hashlib
import importlib
import json
import pathlib
import runpy
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep import make_synthetic
from mmdiff_jax import checkpoint
from mmdiff_jax.av import AVSpec
from mmdiff_jax.cli.verify import verify
from mmdiff_jax.disk.safetensors import save_safetensors
from mmdiff_jax.study.folder import load_study, load_truth
from mmdiff_jax.training import metrics
from tests import sr_fixtures, unet_golden
from tests.faults import kept
from tests.faults.processes import Child, call

# What the commands import when they need it, and the toy's registration.
for _name in (
  "data_prep.preparation",
  "data_prep.runners",
  "grain.python",
  "jinja2",
  "mmdiff_jax.convert.exporter",
  "mmdiff_jax.convert.importer",
  "mmdiff_jax.data.pipeline",
  "mmdiff_jax.evaluation.compare",
  "mmdiff_jax.gallery",
  "mmdiff_jax.sampling.generate",
  "mmdiff_jax.study.building.build",
  "mmdiff_jax.study.statistics.report",
  "mmdiff_jax.study.serving.simulate",
  "mmdiff_jax.training.loop",
  "PIL.Image",
  "scipy.signal",
  "tests.toy",
):
  importlib.import_module(_name)

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'tests' / 'faults' / 'toy_config.py'}"
SPEC = AVSpec(8, 32, 32, 10.0, 8000)
# The toy's geometry.
_PREPARE = ("--size=16", "--sample_rate=2000", "--clip_frames=4", "--shards=2")
_PRESET = """
match: order
training: 1
tasks: {turing: {votes: 3, per_rater: 4}}
"""


@dataclasses.dataclass(frozen=True)
class Command:
  """A command line and its result.

  Attributes:
    name: of the command.
    line: program and arguments, of the folder of inputs and the one of
      results.
    result: what was made, comparable; raises for what is not whole.
    plant: makes a loss in it that must be found.
    needs: inputs, see `make_inputs`.
    locked: whether it lets no second process into its folder.
    begin: makes what it works on in the folder of results.
    environment: variables to set.
  """

  name: str
  line: Callable[[pathlib.Path, pathlib.Path], list[str]]
  result: Callable[[pathlib.Path], Any]
  plant: Callable[[pathlib.Path], None]
  needs: tuple[str, ...] = ()
  locked: bool = False
  begin: Callable[[pathlib.Path, pathlib.Path], Any] | None = None
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def start(self, inputs: pathlib.Path, out: pathlib.Path, **how: Any) -> Child:
    """Starts it; see `Child` for how it may end."""
    line = self.line(inputs, out)
    return Child(
      lambda: run_line(line), environment=dict(self.environment), **how
    )

  def fresh(self, inputs: pathlib.Path, out: pathlib.Path) -> None:
    """Makes the folder of results as it is ahead of the first run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if self.begin is not None:
      self.begin(inputs, out)


def run_line(line: list[str]) -> int | None:
  """Runs a command line in this process."""
  sys.argv = ["main.py", *line]
  runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
  return 0


def digests(folder: pathlib.Path, *, but: str = "") -> dict[str, str]:
  """SHA-256 of each file below a folder, by name."""
  return {
    path.relative_to(folder).as_posix(): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and path.name != but
  }


def _whole(folder: pathlib.Path) -> None:
  problems = [line for _, lines, _ in verify(folder) for line in lines]
  if problems:
    raise ValueError("; ".join(problems))


def _weights(folder: pathlib.Path) -> str:
  """Digest of all averaged parameters of a checkpoint that is whole."""
  import jax

  _whole(folder)
  params, _ = checkpoint.read_average(folder)
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(params):
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()


def _run_result(out: pathlib.Path) -> Any:
  workdir = out / "run"
  steps = [path.name for path in checkpoint.list_checkpoints(workdir)]
  log = [
    {
      name: value
      for name, value in record.items()
      if "per_second" not in name
      and name != "input_wait_share"
      and not name.startswith(("time_", "run_seconds"))
    }
    for record in metrics.read_jsonl(workdir / "metrics.jsonl")
  ]
  return steps, _weights(workdir), log, digests(workdir / "previews")


def _samples_result(out: pathlib.Path) -> Any:
  folder = out / "samples"
  _whole(folder)
  listing = json.loads((folder / "samples.json").read_text())
  return digests(folder, but="samples.json"), listing["samples"]


def _report_result(out: pathlib.Path) -> Any:
  assert "</html>" in (out / "report.html").read_text()
  return json.loads((out / "report.json").read_text())["metrics"]


def _table_result(out: pathlib.Path) -> Any:
  content = json.loads((out / "table.json").read_text())
  for suffix in (".md", ".tex", ".html"):
    assert (out / f"table{suffix}").stat().st_size
  return {name: one["metrics"] for name, one in content["systems"].items()}


def _study_result(out: pathlib.Path) -> Any:
  study = load_study(out / "study")
  truth = load_truth(study)
  assert digests(study.path / "clips") == {
    f"{clip}.mp4": digest for clip, digest in study.clips.items()
  }
  assert (study.path / "admin_token").stat().st_mode & 0o777 == 0o600
  facts = sorted(
    (fact["system"], fact["source"], str(fact["trap"]))
    for fact in truth.values()
  )
  return facts, len(study.slots)


def _sampling(inputs: pathlib.Path, out: pathlib.Path) -> list[str]:
  return [
    "sample", CONFIG, f"--checkpoint={inputs / 'run'}",
    f"--output={out / 'samples'}", "--num_samples=4",
  ]  # fmt: skip


def _evaluating(inputs: pathlib.Path, out: pathlib.Path) -> list[str]:
  return [
    "evaluate", CONFIG, f"--real={inputs / 'real'}", "--metrics=fad_mel,av_gap",
    f"--cache_dir={out / 'cache'}", "--num_clips=6", "--config.data.frames=8",
  ]  # fmt: skip


def _spoil(pattern: str) -> Callable[[pathlib.Path], None]:
  """Changes a byte in the midst of a result."""

  def plant(out: pathlib.Path) -> None:
    path = min(p for p in out.glob(pattern) if p.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

  return plant


def _spoil_figure(name: str) -> Callable[[pathlib.Path], None]:
  """Changes the first figure of a report or table."""

  def plant(out: pathlib.Path) -> None:
    content = json.loads((out / name).read_text())
    sides = content.get("systems", {"": content})
    next(iter(next(iter(sides.values()))["metrics"].values()))["value"] += 1
    (out / name).write_text(json.dumps(content))

  return plant


COMMANDS = {
  command.name: command
  for command in (
    Command(
      "prepare",
      lambda inputs, out: [
        "prepare", f"--input={inputs / 'real'}", f"--output={out / 'records'}",
        "--workers=1", *_PREPARE,
      ],
      lambda out: digests(out),
      _spoil("records/*.tfrecord"),
      ("real",),
      locked=True,
    ),
    Command(
      "train",
      lambda inputs, out: ["train", CONFIG, f"--workdir={out / 'run'}"],
      _run_result,
      _spoil("run/previews/*/*.mp4"),
      locked=True,
    ),
    Command(
      "sample",
      _sampling,
      _samples_result,
      _spoil("samples/*.mp4"),
      ("run",),
      locked=True,
    ),
    Command(
      "upscale",
      lambda inputs, out: [
        "upscale", f"--sr_checkpoint={inputs / 'sr'}",
        f"--source={next((inputs / 'real').glob('*.mp4'))}",
        f"--output={out / 'large'}", "--config.sr.chunk_frames=8",
      ],
      lambda out: digests(out),
      _spoil("large/*.mp4"),
      ("sr", "real"),
    ),
    Command(
      "evaluate",
      lambda inputs, out: [
        *_evaluating(inputs, out), f"--fake={inputs / 'fake'}",
        f"--output={out / 'report.json'}",
      ],
      _report_result,
      _spoil_figure("report.json"),
      ("real", "fake"),
    ),
    Command(
      "compare",
      lambda inputs, out: [
        *_evaluating(inputs, out),
        f"--compare=a={inputs / 'fake'},b={inputs / 'real'}",
        f"--output={out / 'table.json'}",
      ],
      _table_result,
      _spoil_figure("table.json"),
      ("real", "fake"),
    ),
    Command(
      "export",
      lambda inputs, out: [
        "export_checkpoint", f"--checkpoint={inputs / 'run'}",
        f"--output={out / 'export'}",
      ],
      lambda out: _weights(out / "export"),
      _spoil("export/state/d/*"),
      ("run",),
    ),
    Command(
      "export (safetensors)",
      lambda inputs, out: [
        "export_checkpoint", f"--checkpoint={inputs / 'imported' / 'run'}",
        "--format=safetensors", f"--output={out / 'model.safetensors'}",
      ],
      lambda out: digests(out),
      _spoil("model.safetensors"),
      ("imported",),
    ),
    Command(
      "import",
      lambda inputs, out: [
        "import_checkpoint", f"--source={inputs / 'published.safetensors'}",
        f"--workdir={out / 'run'}",
        f"--config={ROOT / 'tests' / 'faults' / 'import_config.py'}",
      ],
      lambda out: (
        _weights(out / "run"),
        json.loads((out / "run" / "config.json").read_text()),
      ),
      _spoil("run/checkpoints/0/state/d/*"),
      ("published.safetensors",),
      locked=True,
    ),
    Command(
      "gallery",
      lambda inputs, out: ["gallery", str(out / "samples"), "--onsets"],
      lambda out: digests(out),
      _spoil("samples/index.html"),
      ("samples",),
      begin=lambda inputs, out: shutil.copytree(
        inputs / "samples", out / "samples"
      ),
    ),
    Command(
      "study build",
      lambda inputs, out: [
        "study", "build", f"--real={inputs / 'real'}",
        f"--fake=ours={inputs / 'fake'}", f"--output={out / 'study'}",
        f"--preset={inputs / 'preset.yaml'}",
      ],
      _study_result,
      _spoil("study/clips/*.mp4"),
      ("real", "fake", "preset.yaml"),
      locked=True,
    ),
    Command(
      "study report",
      lambda inputs, out: [
        "study", "report", str(inputs / "study"),
        f"--output={out / 'report'}", "--draws=100",
      ],
      lambda out: digests(out),
      _spoil("report/*.html"),
      ("study",),
    ),
  )
}  # fmt: skip


def _write_published(folder: pathlib.Path) -> None:
  save_safetensors(
    folder / "published.safetensors",
    unet_golden.state_dict("unet_tiny_sigma_audioattn_keys.json"),
  )


def _write_clips(name: str, first: int) -> Callable[[pathlib.Path], None]:
  def write(folder: pathlib.Path) -> None:
    seeds = range(first, first + 6)
    call(make_synthetic.write_folder, folder / name, seeds, SPEC)

  return write


def _make(name: str, place: str = "") -> Callable[[pathlib.Path], None]:
  """Makes an input by a command."""
  return lambda folder: _finish(COMMANDS[name].start(folder, folder / place))


def _answer_study(folder: pathlib.Path) -> None:
  line = ["study", "simulate", str(folder / "study"), "--raters=6"]
  _finish(Child(lambda: run_line(line)))


# What each input is made of, and how.
_INPUTS: dict[str, tuple[tuple[str, ...], Sequence[Callable]]] = {
  "real": ((), [_write_clips("real", 0)]),
  "fake": ((), [_write_clips("fake", 100)]),
  "preset.yaml": (
    (),
    [lambda folder: (folder / "preset.yaml").write_text(_PRESET)],
  ),
  "published.safetensors": ((), [lambda f: call(_write_published, f)]),
  "sr": (
    (),
    [
      lambda folder: call(
        sr_fixtures.save_random,
        sr_fixtures.make_tiny_sr_config(),
        folder / "sr",
      )
    ],
  ),
  "records": (("real",), [_make("prepare")]),
  "run": ((), [_make("train")]),
  "samples": (("run",), [_make("sample")]),
  "cache": (
    ("real", "fake"),
    [lambda f: call(kept.read_evaluation, f / "cache")],
  ),
  "export": (("run",), [_make("export")]),
  "imported": (("published.safetensors",), [_make("import", "imported")]),
  "model.safetensors": (("imported",), [_make("export (safetensors)")]),
  "study": (
    ("real", "fake", "preset.yaml"),
    [_make("study build"), _answer_study],
  ),
}


def make_inputs(folder: pathlib.Path, names: Iterable[str]) -> None:
  """Makes what is not there yet, and what it is made of."""
  folder.mkdir(exist_ok=True)
  for name in names:
    needs, steps = _INPUTS[name]
    if not (folder / name).exists():
      make_inputs(folder, needs)
      for step in steps:
        step(folder)


def _finish(child: Child) -> None:
  if child.wait() != 0:
    raise RuntimeError(child.text())
