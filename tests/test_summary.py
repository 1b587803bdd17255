"""What programs say at their end: the result in words, and what comes next."""

import json
import signal
import sys

import pytest

from data_prep.summary import summary
from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.manifest import Manifest, Video
from mmdiff_jax.evaluation.report import page
from mmdiff_jax.training import loop
from mmdiff_jax.training.signals import StoppedError
from mmdiff_jax.training.summary import summarise
from tests.command_line import call
from tests.preparation_fixtures import run


def write_log(workdir, *records):
  workdir.mkdir(exist_ok=True)
  text = "".join(json.dumps(record) + "\n" for record in records)
  (workdir / "metrics.jsonl").write_text(text)


def test_a_run_ends_with_its_losses_in_words(tmp_path):
  quarters = {"loss_q1": 0.4, "loss_q2": 0.2, "loss_q3": 0.1, "loss_q4": 0.05}
  write_log(
    tmp_path,
    {"step": 50, "loss": 0.75},
    {"step": 60, "heldout_loss": 0.8},
    {"step": 100, "loss": 0.21} | quarters,
    {"step": 120, "heldout_loss": 0.3},
    {"step": 180, "heldout_loss": 0.35, "heldout_loss_q1": 0.5},
    {"step": 200, "loss": 0.19} | quarters,
  )
  (tmp_path / "previews" / "00000100").mkdir(parents=True)
  (tmp_path / "previews" / "00000200").mkdir()
  assert summarise(tmp_path).splitlines() == [
    "Loss on the training clips: 0.19 at step 200, 0.75 at step 50.",
    "  by quarter, from little noise to much: 0.4, 0.2, 0.1, 0.05",
    "Loss on held-out clips: 0.35 at step 180, 0.8 at step 60, lowest 0.3 at "
    "step 120.",
    "  by quarter, from little noise to much: 0.5, -, -, -",
    f"Previews: {tmp_path / 'previews'}, the newest in 00000200.",
  ]


def test_a_run_says_what_it_cannot_tell(tmp_path):
  nan = float("nan")
  write_log(
    tmp_path,
    {"step": 4, "loss": 2.0, "video_mse_q1": nan, "audio_mse_q1": 1.0},
  )
  text = summarise(tmp_path)
  assert "Loss on the training clips: 2 at step 4." in text
  assert (
    "by quarter of video_mse, from little noise to much: -, -, -, -" in text
  )
  assert "by quarter of audio_mse, from little noise to much: 1, -" in text
  assert "Nothing is held out (config.data.holdout_fraction)" in text
  assert "Previews: none (config.train.preview_every)." in text


@pytest.mark.parametrize(
  ("name", "step", "following"),
  [
    ("smoke", 300, "sample --checkpoint='my run' --output=samples"),
    ("superres", 300, "upscale --sr_checkpoint='my run' --source=... --outp"),
    ("smoke", 299, None),
  ],
)
def test_a_finished_run_names_the_next_command(
  tmp_path, monkeypatch, capsys, name, step, following
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "argv", ["main.py"])
  write_log(tmp_path / "my run", {"step": step, "loss": 0.5})

  def train(config, workdir, **options):
    if following is None:
      raise StoppedError(step, signal.SIGTERM, None)

  monkeypatch.setattr(loop, "train", train)
  words = ("train", f"--config={name}", "--workdir=my run")
  status = call(*words, "--config.train.num_steps=300")
  assert status == (0 if following else 143)
  out, err = capsys.readouterr()
  if following is None:
    assert out == "" and err.startswith("Stopped by a signal after step 299")
  else:
    assert f"\nNext: python main.py {following}" in out


def manifest(*videos, **changes):
  return Manifest(
    spec=AVSpec(4, 16, 16, 10.0, 8000),
    frame_format="raw",
    jpeg_quality=None,
    videos=videos,
    shards=(("clips.tfrecord", len(videos)),),
    skipped=(),
    options={},
    fingerprint="",
    **changes,
  )


def test_a_data_set_is_explained():
  videos = (Video("a.mp4", 60), Video("b.mp4", 10))
  lines = summary(manifest(*videos)).splitlines()
  # Clips begin at 57 + 7 frames; 15 + 2 lie side by side.
  assert lines[:2] == [
    "Videos: 2 used (7 s), 0 skipped.",
    "Clips: 64 of 4 frames (0.4 s). One begins at every frame; 17 do not "
    "overlap.",
  ]
  assert lines[2].startswith("Records: 17 stretches of up to 7 frames, in 1 ")


def notes(*videos):
  text = summary(manifest(*videos))
  return [line[6:] for line in text.splitlines() if line.startswith("note: ")]


def test_what_may_spoil_training_is_noted():
  good = [Video(f"{i}.mp4", 40) for i in range(100)]
  assert notes(*good) == []
  (few,) = notes(*good[:99])
  assert few.startswith("few videos (99): ")
  (most,) = notes(*good, Video("film.mp4", 40 * 1000))
  assert most == "film.mp4 supplies 92% of the clips."
  assert notes(*good, Video("film.mp4", 40 * 90)) == []
  still = [Video(f"{i}.mp4", 40, empty={"still": 2.4}) for i in range(100)]
  (text,) = notes(*still)
  assert "stand still for 60% of the time: --max_frozen=0.5 leaves" in text
  silent = [Video(f"{i}.mp4", 40, empty={"silent": 4.0}) for i in range(100)]
  (text,) = notes(*silent)
  assert "silent for 100% of the time: --max_silence=0.5 leaves" in text


def test_preparation_names_the_next_commands(videos, tmp_path, capsys):
  output = tmp_path / "my set"
  assert run(videos, output) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[-2] == f"Next: mmdiff-jax inspect '{output}'"
  assert lines[-1].startswith("Then: mmdiff-jax train --workdir=runs/mine ")
  assert lines[-1].endswith(f"--config.data.source=tfrecord:'{output}'")


def test_every_figure_of_an_evaluation_says_how_many_clips_it_is_of():
  entry = {"stderr": None, "better": "lower", "about": ""}
  content = {
    "spec": {"frames": 4, "height": 8, "width": 8, "fps": 10.0},
    "fake": {"used": 20},
    "real": {"used": 30, "split": "all"},
    "protocol": "clean",
    "seed": 0,
    "weights": {},
    "notes": [],
    "warnings": [],
    "metrics": {
      "fad": entry
      | {"value": 1.5, "real": 0.5, "n_fake": 20, "n_real": 30, "real_n": 15},
      "fvd": entry | {"value": None, "real": None, "reason": "no weights"},
    },
  }
  header, fad, fvd = page.as_text(content).splitlines()[1:]
  assert header.split() == ["metric", "value", "n", "among", "real", "n"]
  assert fad.split() == ["fad", "1.5", "20/30", "0.5", "15"]
  assert fvd.split() == ["fvd", "-", "-", "-", "-"]
