"""Transforms of images and clips on the host: fitting, cropping, degrading."""

import io

import numpy as np


def inner_size(
  rows: float, columns: float, height: int, width: int, fit: str
) -> tuple[int, int]:
  """Size to which a picture is scaled on its way to `height` x `width`.

  Args:
    rows: of the picture on display.
    columns: of the picture on display.
    height: wanted.
    width: wanted.
    fit: "pad" (within the wanted size), "crop" (around it) or "stretch".
  """
  if fit == "stretch":
    return height, width
  choose = max if fit == "crop" else min
  scale = choose(height / rows, width / columns)
  return max(1, round(rows * scale)), max(1, round(columns * scale))


def fit_frame(
  image: np.ndarray,
  height: int,
  width: int,
  *,
  pixel_aspect: float = 1.0,
  fit: str = "pad",
) -> np.ndarray:
  """Fits an image into `height` x `width`, bicubic and centred.

  Args:
    image: uint8 `[h, w, 3]`.
    height: rows of the result.
    width: columns of the result.
    pixel_aspect: width of a pixel of `image` over its height; the shape on
      display is what keeps its ratio.
    fit: what becomes of another aspect ratio: "pad" adds black bars, "crop"
      cuts the edges off, "stretch" changes the shape.

  Returns:
    uint8 `[height, width, 3]`.
  """
  rows, columns = image.shape[0], image.shape[1] * pixel_aspect
  if pixel_aspect == 1.0 and (rows, columns) == (height, width):
    return np.ascontiguousarray(image)
  inner = inner_size(rows, columns, height, width, fit)
  resized = resize_bicubic(image, *inner)
  if inner == (height, width):
    return resized
  if fit == "crop":
    top, left = (inner[0] - height) // 2, (inner[1] - width) // 2
    part = resized[top : top + height, left : left + width]
    return np.ascontiguousarray(part)
  out = np.zeros((height, width, 3), np.uint8)
  top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
  out[top : top + inner[0], left : left + inner[1]] = resized
  return out


def fit_video(
  video: np.ndarray, height: int, width: int, fit: str = "pad"
) -> np.ndarray:
  """`fit_frame` of every frame, `[F, h, w, 3]` -> `[F, height, width, 3]`."""
  if video.shape[1:3] != (height, width):
    video = np.stack(
      [fit_frame(frame, height, width, fit=fit) for frame in video]
    )
  return np.ascontiguousarray(video)


def resize_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes uint8 `[h, w, 3]` bicubically, low-pass filtered when smaller."""
  from PIL import Image

  if image.shape[:2] == (height, width):
    return np.ascontiguousarray(image)
  picture = Image.fromarray(np.ascontiguousarray(image))
  return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def flip(video: np.ndarray) -> np.ndarray:
  """Mirrors `[..., H, W, C]` left to right."""
  return video[..., ::-1, :]


def random_crop(
  image: np.ndarray, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
  """Cuts a random `height` x `width` part out of `[h, w, 3]`.

  Raises:
    ValueError: if the image is smaller than the crop.
  """
  spare = (image.shape[0] - height, image.shape[1] - width)
  if min(spare) < 0:
    raise ValueError(
      f"an image of {image.shape[0]}x{image.shape[1]} pixels is too small for"
      f" a crop of {height}x{width}; prepare the data with a larger --size."
    )
  top, left = (int(rng.integers(s + 1)) for s in spare)
  return image[top : top + height, left : left + width]


def add_noise(
  image: np.ndarray, max_sigma: float, rng: np.random.Generator
) -> np.ndarray:
  """Adds Gaussian noise of sigma ~ U(0, max_sigma), in grey levels, to uint8.

  The sum is rounded and clipped to 0..255.
  """
  sigma = rng.uniform(0.0, max_sigma)
  noisy = image + sigma * rng.standard_normal(image.shape)
  return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def jpeg_round_trip(image: np.ndarray, quality: int) -> np.ndarray:
  """Encodes uint8 `[H, W, 3]` as JPEG of `quality` (1-95) and decodes it."""
  from PIL import Image

  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="jpeg", quality=int(quality))
  return np.asarray(Image.open(buffer))
