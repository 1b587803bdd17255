import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff_jax.models import rs_mma

PIXELS, HEADS, WIDTH = 3, 2, 4


def streams(frames, length, batch=2, pixels=PIXELS):
  """Queries, keys and values of video and audio."""
  rng = np.random.default_rng(0)
  video = rng.standard_normal((3, batch, frames, pixels, HEADS, WIDTH))
  audio = rng.standard_normal((3, batch, length, HEADS, WIDTH))
  return tuple(video.astype(np.float32)), tuple(audio.astype(np.float32))


def one_query(q, keys, values):
  """Attention of one query `[K, D]` to tokens `[S, K, D]`."""
  scores = np.einsum("kd,skd->ks", q, keys) / np.sqrt(WIDTH)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("ks,skd->kd", weights, values)


def brute_force(video, audio, window, shift):
  """The definition, a loop over frames and queries."""
  (vq, vk, vv), (aq, ak, av) = video, audio
  batch, frames = vq.shape[:2]
  length = aq.shape[1]
  apf = length // frames
  video_out, audio_out = np.empty(vq.shape), np.empty(aq.shape)
  for b, i in np.ndindex(batch, frames):
    tokens = [(i * apf + shift * apf + j) % length for j in range(window * apf)]
    for p in range(PIXELS):
      video_out[b, i, p] = one_query(vq[b, i, p], ak[b, tokens], av[b, tokens])
    seen = [(i + shift + k) % frames for k in range(window)]
    keys = vk[b, seen].reshape(-1, HEADS, WIDTH)
    values = vv[b, seen].reshape(-1, HEADS, WIDTH)
    end = length if i == frames - 1 else (i + 1) * apf
    for j in range(i * apf, end):
      audio_out[b, j] = one_query(aq[b, j], keys, values)
  return video_out, audio_out


@pytest.mark.parametrize(
  ("frames", "length", "window", "shift"),
  [
    (4, 12, 1, 0),
    (4, 12, 1, 3),  # Wraps from the first frame on.
    (4, 12, 3, 1),
    (5, 13, 2, 0),  # Left-over audio tokens.
    (5, 19, 2, 3),  # The same with the wrap falling inside a frame.
    (5, 19, 4, 1),
    (4, 12, 4, 0),  # All frames: one window for all.
    (4, 15, 4, 0),  # All frames, left-over tokens.
    (3, 3, 2, 1),  # One audio token per frame.
    (1, 5, 1, 0),
  ],
)
def test_equals_a_loop_over_frames(frames, length, window, shift):
  video, audio = streams(frames, length)
  expected = brute_force(video, audio, window, shift)
  static = rs_mma.cross_attend(video, audio, window, shift)
  traced = jax.jit(rs_mma.cross_attend, static_argnums=2)(
    video, audio, window, shift
  )
  for out in (static, traced):
    np.testing.assert_allclose(out[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(out[1], expected[1], atol=1e-5)


def changed(before, after):
  """Indices along axis 1 at which two outputs differ."""
  difference = np.abs(np.asarray(before) - np.asarray(after))
  return set(np.flatnonzero(difference.max((0, *range(2, before.ndim)))))


@pytest.mark.parametrize("shift", [0, 2])
def test_audio_reaches_only_the_frames_of_its_windows(shift):
  frames, apf, window = 6, 4, 3
  video, (q, k, v) = streams(frames, frames * apf)
  before, _ = rs_mma.cross_attend(video, (q, k, v), window, shift)
  for frame in range(frames):
    noise = np.zeros_like(v)
    noise[:, frame * apf : (frame + 1) * apf] = 1.0
    after, _ = rs_mma.cross_attend(video, (q, k, v + noise), window, shift)
    # Frame i sees the segments i+s .. i+s+w-1 of the ring.
    expected = {(frame - shift - j) % frames for j in range(window)}
    assert changed(before, after) == expected


def test_video_reaches_only_the_segments_of_its_windows():
  frames, apf, window, shift = 6, 4, 2, 3
  (q, k, v), audio = streams(frames, frames * apf + 2)
  _, before = rs_mma.cross_attend((q, k, v), audio, window, shift)
  for frame in range(frames):
    noise = np.zeros_like(v)
    noise[:, frame] = 1.0
    _, after = rs_mma.cross_attend((q, k, v + noise), audio, window, shift)
    segments = {(frame - shift - j) % frames for j in range(window)}
    tokens = {apf * i + j for i in segments for j in range(apf)}
    if frames - 1 in segments:
      tokens |= {frames * apf, frames * apf + 1}
    assert changed(before, after) == tokens


@pytest.mark.parametrize("kernels", ["plain", "cpu"])
def test_no_intermediate_holds_every_pair_of_tokens(kernels):
  frames, length, pixels, window = 8, 64, 32, 2
  video, audio = streams(frames, length, 1, pixels)
  attend = functools.partial(rs_mma.cross_attend, kernels=kernels)
  jaxpr = jax.make_jaxpr(attend, static_argnums=2)(
    video, audio, window, jnp.int32(1)
  )
  sizes = [
    np.prod(var.aval.shape) for eqn in jaxpr.jaxpr.eqns for var in eqn.outvars
  ]
  pairs = frames * pixels * length * HEADS
  assert max(sizes) == pairs * window / frames


def test_gradients_flow_through_the_windows():
  video, audio = streams(4, 13, batch=1)

  def loss(audio_v, shift):
    out, _ = rs_mma.cross_attend(video, (*audio[:2], audio_v), 2, shift)
    return jnp.sum(jnp.sin(out))

  grad = jax.jit(jax.grad(loss))(audio[2], 1)
  direction = np.random.default_rng(1).standard_normal(audio[2].shape)
  expected = sum(
    sign * np.sin(brute_force(video, (*audio[:2], v), 2, 1)[0]).sum()
    for sign, v in (
      (0.5e4, audio[2] + 1e-4 * direction),
      (-0.5e4, audio[2] - 1e-4 * direction),
    )
  )
  np.testing.assert_allclose(np.vdot(grad, direction), expected, rtol=1e-3)
