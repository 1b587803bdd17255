"""Where results cannot be written is found before the work begins."""

import pathlib

import pytest

from configs import default
from data_prep import preparation
from data_prep.clip_task import ClipOptions
from mmdiff_jax.aot.compile import compile_for
from mmdiff_jax.av import AVSpec
from mmdiff_jax.convert import exporter, importer
from mmdiff_jax.disk import files
from mmdiff_jax.evaluation.compare import compare
from mmdiff_jax.evaluation.evaluate import evaluate
from mmdiff_jax.gallery import make_gallery
from mmdiff_jax.sampling.generate import sample
from mmdiff_jax.sampling.upscale import upscale
from mmdiff_jax.study.building.build import build
from mmdiff_jax.study.settings import load_settings
from mmdiff_jax.training.loop import train
from tests.command_line import call

# Nobody can make a file there, root included.
READ_ONLY = pathlib.Path("/proc")
CONFIG = default.get_config()
CLIP_OPTIONS = ClipOptions(AVSpec(), "raw", None, "mean", "skip")

# Each is given an input that does not exist: its error would come first if the
# work had begun.
WORK = {
  "train": lambda out: train(CONFIG, out),
  "sample": lambda out: sample(
    CONFIG, checkpoint_path="absent", output=out, num_samples=1, seed=0
  ),
  "upscale": lambda out: upscale(
    CONFIG, sr_checkpoint="absent", source="absent", output=out, seed=0
  ),
  "evaluate": lambda out: evaluate(
    real="absent", fake="absent", output=f"{out}/report.json"
  ),
  "compare": lambda out: compare(
    real="absent", fakes={"a": "absent"}, output=f"{out}/table.json"
  ),
  "export": lambda out: exporter.export_params("absent", out),
  "export to safetensors": lambda out: exporter.export_safetensors(
    "absent", f"{out}.safetensors"
  ),
  "import": lambda out: importer.import_checkpoint(
    CONFIG, source="absent", workdir=out
  ),
  "build a study": lambda out: build(
    "absent", {"a": "absent"}, out, load_settings("default")
  ),
  "prepare": lambda out: preparation.prepare("absent", out, CLIP_OPTIONS),
  "compile": lambda out: compile_for(
    CONFIG, topology="absent", output=f"{out}/report.json"
  ),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())
def test_a_read_only_output_is_found_first(work):
  with pytest.raises(OSError, match="=/proc.* cannot be written") as error:
    work(str(READ_ONLY / "new"))
  assert "\n" not in str(error.value) and "choose another" in str(error.value)


def test_a_gallery_is_not_drawn_for_a_read_only_folder(tmp_path):
  (tmp_path / "a.mp4").write_bytes(b"no clip")
  with pytest.raises(OSError, match="=/proc/new cannot be written"):
    make_gallery(tmp_path, READ_ONLY / "new")


def test_a_contact_sheet_is_not_drawn_for_a_read_only_folder(tmp_path, capsys):
  (tmp_path / "dataset.json").write_text("{}")
  sheet = READ_ONLY / "sheet.png"
  assert call("inspect", tmp_path, f"--output={sheet}") == 1
  assert "/proc/sheet.png cannot be written" in capsys.readouterr().err


def test_looking_leaves_nothing_behind(tmp_path):
  files.check_directory(tmp_path)
  files.check_directory(tmp_path / "a" / "b")
  files.check_file(tmp_path / "a" / "b.json")
  assert not list(tmp_path.iterdir())
