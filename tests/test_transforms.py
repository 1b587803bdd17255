import numpy as np
import pytest

from mmdiff_jax.media import transforms


def test_fit_keeps_the_ratio_and_centres():
  image = np.full((30, 60, 3), 100, np.uint8)
  out = transforms.fit_frame(image, 40, 40)
  assert out.shape == (40, 40, 3)
  rows = np.flatnonzero(out.any(axis=(1, 2)))
  assert (rows[0], rows[-1]) == (10, 29)
  tall = transforms.fit_frame(image.transpose(1, 0, 2), 40, 40)
  columns = np.flatnonzero(tall.any(axis=(0, 2)))
  assert (columns[0], columns[-1]) == (10, 29)


def test_fit_uses_the_shape_on_display():
  image = np.full((30, 30, 3), 100, np.uint8)
  out = transforms.fit_frame(image, 40, 40, pixel_aspect=2.0)
  assert np.flatnonzero(out.any(axis=(1, 2))).tolist() == list(range(10, 30))


def test_crop_fills_the_frame_with_the_middle_of_the_picture():
  image = np.zeros((30, 60, 3), np.uint8)
  image[:, :15], image[:, 15:45], image[:, 45:] = 50, 100, 200
  out = transforms.fit_frame(image, 30, 30, fit="crop")
  assert out.shape == (30, 30, 3) and (out == 100).all()
  out = transforms.fit_frame(image.transpose(1, 0, 2), 30, 30, fit="crop")
  assert (out == 100).all()
  # Pixels twice as wide: it is the middle quarter that fills the frame.
  out = transforms.fit_frame(image, 30, 30, fit="crop", pixel_aspect=2.0)
  assert (out == 100).all()


def test_stretch_shows_all_of_the_picture_without_bars():
  ramp = np.repeat(np.arange(60, dtype=np.uint8)[None, :, None], 30, 0)
  out = transforms.fit_frame(ramp.repeat(3, 2), 30, 30, fit="stretch")
  # Column j is the mean of the columns 2j and 2j + 1.
  np.testing.assert_allclose(
    out[7, 1:-1, 0], 2 * np.arange(30)[1:-1] + 0.5, atol=0.5
  )


def test_fit_of_the_right_size_changes_nothing():
  image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
  np.testing.assert_array_equal(transforms.fit_frame(image, 8, 9), image)


def test_bicubic_reduction_does_not_alias():
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[:, ::2] = 255
  small = transforms.resize_bicubic(stripes, 16, 16)
  np.testing.assert_allclose(small[:, 2:-2], 127.5, atol=4)


def test_bicubic_reproduces_a_ramp():
  ramp = np.repeat(np.arange(0, 256, 4, np.uint8)[None, :, None], 64, 0)
  ramp = np.repeat(ramp, 3, 2)
  small = transforms.resize_bicubic(ramp, 16, 16).astype(float)
  # Centre of output column j is input column 4j + 1.5.
  expected = 4 * (4 * np.arange(16) + 1.5)
  np.testing.assert_allclose(small[5, 2:-2, 0], expected[2:-2], atol=1)


def test_flip_twice_is_nothing():
  video = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
  flipped = transforms.flip(video)
  np.testing.assert_array_equal(flipped[:, :, 0], video[:, :, -1])
  np.testing.assert_array_equal(transforms.flip(flipped), video)


def test_random_crop_reaches_all_places():
  image = np.arange(25, dtype=np.uint8).reshape(5, 5, 1).repeat(3, 2)
  rng = np.random.default_rng(0)
  corners = {
    int(transforms.random_crop(image, 4, 3, rng)[0, 0, 0]) for _ in range(200)
  }
  assert corners == {0, 1, 2, 5, 6, 7}
  with pytest.raises(ValueError, match="too small for a crop of 6x5"):
    transforms.random_crop(image, 6, 5, rng)


def test_noise_is_uniform_in_sigma():
  rng = np.random.default_rng(0)
  grey = np.full((32, 32, 3), 128, np.uint8)
  sigmas = [
    (transforms.add_noise(grey, 20.0, rng) - 128.0).std() for _ in range(400)
  ]
  assert abs(np.mean(sigmas) - 10) < 1
  assert abs(np.percentile(sigmas, 90) - 18) < 1
  assert max(sigmas) < 21


def test_jpeg_error_falls_with_quality():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (32, 32, 3), np.uint8)
  errors = [
    np.abs(transforms.jpeg_round_trip(image, q).astype(int) - image).mean()
    for q in (20, 50, 80)
  ]
  assert errors[0] > errors[1] > errors[2] > 1
