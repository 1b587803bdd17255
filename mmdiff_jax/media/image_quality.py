"""How close an image is to the truth, how sharp, and how still a clip is."""

import numpy as np

# Change in grey levels up to which a pixel of the truth counts as static.
STATIC_CHANGE = 4


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
  """Peak signal-to-noise ratio, 10 log10(255² / MSE), of a set of images.

  The error is averaged over the whole set: the mean of the images' own ratios
  would be ruled by black ones, which any method reproduces exactly.

  Args:
    image: uint8 `[N, H, W, 3]`.
    truth: like `image`.

  Returns:
    Decibels; infinite where all images equal the truth.
  """
  _check_pair(image, truth)
  error = np.mean((image.astype(np.float64) - truth) ** 2)
  return float(10 * np.log10(255.0**2 / error)) if error else float("inf")


def sharpness(image: np.ndarray, truth: np.ndarray) -> float:
  """Gradient energy of the images over that of the truth.

  The energy is the sum of squared differences of neighbouring pixels: below 1
  is blurred, above 1 is noisy or has details that the truth has not. It says
  nothing without the PSNR beside it, for noise counts as detail.

  Args:
    image: uint8 `[N, H, W, 3]`.
    truth: like `image`.

  Returns:
    The ratio, NaN where the truth has no gradient.
  """
  _check_pair(image, truth)
  energy = _gradient_energy(truth)
  return _gradient_energy(image) / energy if energy else float("nan")


def _gradient_energy(images: np.ndarray) -> float:
  x = images.astype(np.float64)
  return float(sum((np.diff(x, axis=axis) ** 2).sum() for axis in (1, 2)))


def static_region(
  truth: np.ndarray, max_change: int = STATIC_CHANGE
) -> np.ndarray:
  """Pixels of a clip that hold still from its first frame to its last.

  Args:
    truth: uint8 `[F, H, W, 3]`.
    max_change: largest change between consecutive frames, in grey levels,
      that counts as still.

  Returns:
    bool `[H, W]`.
  """
  return _changes(truth).max((0, 3), initial=0) <= max_change


def flicker(video: np.ndarray, region: np.ndarray) -> float:
  """Mean absolute change between consecutive frames within a region.

  Args:
    video: uint8 `[F, H, W, 3]`.
    region: bool `[H, W]`.

  Returns:
    Grey levels, NaN for an empty region or a single frame.
  """
  if region.shape != video.shape[1:3]:
    raise ValueError(
      f"The region has {region.shape} pixels, the video {video.shape[1:3]}."
    )
  changes = _changes(video)[:, region]
  return float(changes.mean()) if changes.size else float("nan")


def _changes(video: np.ndarray) -> np.ndarray:
  return np.abs(np.diff(video.astype(np.int16), axis=0))


def _check_pair(image: np.ndarray, truth: np.ndarray) -> None:
  if image.shape != truth.shape or image.ndim != 4:
    raise ValueError(
      f"Images {image.shape} and truth {truth.shape} must both be [N, H, W, 3]."
    )
  if image.dtype != np.uint8 or truth.dtype != np.uint8:
    raise ValueError(
      f"Images ({image.dtype}) and truth ({truth.dtype}) must be uint8."
    )
