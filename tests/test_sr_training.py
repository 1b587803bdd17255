"""Training super-resolution: held-out previews, measures, the loss terms."""

import numpy as np
import pytest
from PIL import Image

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data.clips import is_held_out
from mmdiff_jax.media import image_quality
from mmdiff_jax.training import loop, metrics, sr_preview
from tests import prepared_fixtures, sr_fixtures


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """On eight prepared videos, some of them held out."""
  folder = tmp_path_factory.mktemp("data") / "clips"
  spec = AVSpec(1, 16, 16, 10.0, 16000)
  prepared_fixtures.write_dataset(folder, spec, [3] * 8, frame_format="png")
  config = sr_fixtures.make_tiny_sr_config()
  config.data.update(source=f"tfrecord:{folder}", holdout_fraction=0.4)
  return config


@pytest.fixture(scope="module")
def held_out():
  """Numbers of the videos that training does not see."""
  names = [f"video_{i:03d}.mp4" for i in range(8)]
  chosen = {i for i, name in enumerate(names) if is_held_out(name, 0.4)}
  assert 0 < len(chosen) < 8
  return chosen


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  loop.train(config, workdir)
  return workdir


@pytest.fixture(scope="module")
def panels(run):
  """The pictures of the preview, cut into panels: `[N, 4, 16, 16, 3]`."""
  pictures = sorted((run / "previews/00000002").iterdir())
  assert [p.name for p in pictures] == [f"sample_0{i}.png" for i in range(3)]
  images = np.stack([np.asarray(Image.open(p)) for p in pictures])
  assert images.shape == (3, 16, 64, 3)
  return np.stack(np.split(images, 4, axis=2), axis=1)


def test_truth_panel_shows_held_out_frames(panels, held_out):
  """Pixel (0, 0) of every frame holds the number of its video."""
  numbers = {int(image[0, 0, 0]) for image in panels[:, 3]}
  assert numbers <= held_out


def test_low_and_bicubic_panels_are_the_input_and_its_resize(panels):
  low = panels[:, 0, ::4, ::4]
  np.testing.assert_array_equal(
    panels[:, 0], np.kron(low, np.ones((1, 4, 4, 1), np.uint8))
  )
  for image, bicubic in zip(low, panels[:, 1], strict=True):
    resized = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(resized), bicubic)


def test_inputs_are_degraded_as_in_training(config):
  config = config.copy_and_resolve_references()
  truth, low = sr_preview.held_out_pairs(config, 3)
  config.sr.noise_probability = config.sr.jpeg_probability = 0.0
  same_truth, clean = sr_preview.held_out_pairs(config, 3)
  np.testing.assert_array_equal(truth, same_truth)
  assert np.abs(low.astype(int) - clean).max() > 3
  for image, small in zip(truth, clean, strict=True):
    resized = Image.fromarray(image).resize((4, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(resized), small)


def test_log_has_what_the_panels_show(run, panels):
  records = metrics.read_jsonl(run / "metrics.jsonl")
  record = next(r for r in records if "psnr" in r)
  assert record["step"] == 2
  _, bicubic, ours, truth = np.moveaxis(panels, 1, 0).astype(np.float64)
  for suffix, images in (("", ours), ("_bicubic", bicubic)):
    by_hand = 20 * np.log10(255 / np.mean((images - truth) ** 2) ** 0.5)
    assert record[f"psnr{suffix}"] == pytest.approx(by_hand)
    assert record[f"sharpness{suffix}"] > 0
  assert record["psnr"] != record["psnr_bicubic"]


def test_log_has_both_terms_of_the_loss(run):
  steps = [r for r in metrics.read_jsonl(run / "metrics.jsonl") if "loss" in r]
  assert [r["step"] for r in steps] == [1, 2]
  for r in steps:
    assert r["loss"] == pytest.approx(r["image_mse"] + r["image_vb"], rel=1e-5)
    assert r["image_vb"] > 0


def checkerboard(contrast):
  board = np.indices((8, 8)).sum(0) % 2
  return np.repeat((100 + contrast * board)[None, ..., None], 3, -1).astype(
    np.uint8
  )


def test_psnr_of_a_constant_error():
  truth = checkerboard(20)
  # MSE 25: 10 log10(65025 / 25).
  assert image_quality.psnr(truth + 5, truth) == pytest.approx(
    34.1514, abs=1e-4
  )
  assert image_quality.psnr(truth, truth) == np.inf
  # One of two images is exact: half the error, 3.0103 dB more.
  pair = np.concatenate([truth, truth])
  off = np.concatenate([truth, truth + 5])
  assert image_quality.psnr(off, pair) == pytest.approx(37.1617, abs=1e-4)


def test_sharpness_is_the_square_of_the_contrast():
  truth = checkerboard(20)
  assert image_quality.sharpness(checkerboard(10), truth) == pytest.approx(0.25)
  assert image_quality.sharpness(truth, truth) == 1.0
  assert np.isnan(image_quality.sharpness(truth, checkerboard(0)))


def test_flicker_is_the_change_where_the_truth_holds_still():
  truth = np.full((3, 4, 4, 3), 100, np.uint8)
  truth[1:, :, :2] = 200
  region = image_quality.static_region(truth)
  assert region[:, 2:].all() and not region[:, :2].any()
  assert image_quality.flicker(truth, region) == 0.0
  video = truth.copy()
  video[1] += 6
  assert image_quality.flicker(video, region) == 6.0
  video[2] += 6
  assert image_quality.flicker(video, region) == 3.0
  assert np.isnan(image_quality.flicker(video[:1], region))


def test_images_that_cannot_be_compared_are_refused():
  truth = checkerboard(20)
  with pytest.raises(ValueError, match="must be uint8"):
    image_quality.psnr(truth.astype(np.float32), truth)
  with pytest.raises(ValueError, match="must both be"):
    image_quality.sharpness(truth[:, :4], truth)
  with pytest.raises(ValueError, match="region has"):
    image_quality.flicker(truth, np.ones((4, 4), bool))
