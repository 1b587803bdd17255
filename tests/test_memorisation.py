import numpy as np
import pytest

from mmdiff_jax.av import AVSpec
from mmdiff_jax.evaluation import descriptors, memorisation
from mmdiff_jax.media import reading
from mmdiff_jax.world.clips import make_clip, split_seed

SPEC = AVSpec()
TRAINING, HELD_OUT = 40, 20


def clips_of(split, count):
  made = [make_clip(split_seed(split, i), SPEC) for i in range(count)]
  video = np.stack([clip.video for clip in made])
  return video, np.stack([clip.audio[:, 0] for clip in made])


def features(video, wave):
  """`scene` stands in for I3D logits, which are slow on a CPU."""
  return {
    "thumbnails": descriptors.thumbnails(video),
    "mel_picture": descriptors.mel_picture(wave),
    "logits": descriptors.scene(video),
    "logits_mirrored": descriptors.scene(video[..., ::-1, :]),
  }


@pytest.fixture(scope="module")
def training():
  return clips_of("train", TRAINING)


@pytest.fixture(scope="module")
def compare(training):
  train = features(*training)

  def run(video, wave):
    return memorisation.compare_clips(
      features(video, wave), train, np.arange(TRAINING), "logits", seed=0
    )

  return run


def test_held_out_clips_are_not_accused(compare):
  spaces = compare(*clips_of("eval", HELD_OUT))
  for space in spaces.values():
    assert not space.copies.any()
  assert memorisation.summary(spaces, "logits")["share_of_copies"] == 0


def test_few_real_clips_would_be_accused_by_the_same_rule(compare, training):
  for space in compare(*training).values():
    assert (space.reference < space.threshold).mean() <= 0.01


def as_they_are(video, wave):
  return video, wave


def mirrored(video, wave):
  return video[..., ::-1, :], wave


def with_another_volume(video, wave):
  return video, wave * 0.3


def mirrored_backwards(video, wave):
  return video[:, ::-1, :, ::-1], wave


@pytest.mark.parametrize(
  "change", [as_they_are, mirrored, with_another_volume, mirrored_backwards]
)
def test_planted_copies_are_found_and_named(compare, training, change):
  planted = [3, 11, 29]
  video, wave = change(*(x[planted] for x in training))
  spaces = compare(video, wave)
  for name in ("pixel", "mel"):
    assert spaces[name].copies.all()
    assert spaces[name].index.tolist() == planted


def test_reencoded_copies_are_found(compare, training, tmp_path):
  planted = [5, 17]
  videos, waves = [], []
  for i in planted:
    path = tmp_path / f"{i}.mp4"
    rates = {"fps": SPEC.fps, "sample_rate": SPEC.sample_rate}
    reading.write_mp4(
      path, training[0][i], training[1][i][:, None], crf=28, **rates
    )
    content = reading.read_media(path, **rates)
    videos.append(content.video[: SPEC.frames])
    waves.append(content.audio[: SPEC.audio_length, 0])
  assert not np.array_equal(videos[0], training[0][planted[0]])
  spaces = compare(np.stack(videos), np.stack(waves))
  for name in ("pixel", "mel"):
    assert spaces[name].copies.all()
    assert spaces[name].index.tolist() == planted


def test_copied_audio_under_another_video_is_found_as_audio(compare, training):
  video, _ = clips_of("eval", 3)
  spaces = compare(video, training[1][:3])
  assert spaces["mel"].copies.all() and not spaces["pixel"].copies.any()
  shares = memorisation.summary(spaces, "logits")
  assert shares["share_of_audio_copies"] == 1
  assert shares["share_of_video_copies"] == 0


def test_the_share_is_that_of_the_planted_clips(compare, training):
  video, wave = clips_of("eval", 9)
  video = np.concatenate([video, training[0][:1]])
  wave = np.concatenate([wave, training[1][:1]])
  shares = memorisation.summary(compare(video, wave), "logits")
  assert shares["share_of_copies"] == pytest.approx(0.1)


def test_nearest_agrees_with_a_loop(monkeypatch):
  # Chunks of one query clip.
  monkeypatch.setattr(memorisation, "_BYTES", 1)
  rng = np.random.default_rng(0)
  train = rng.standard_normal((6, 5, 3)).astype(np.float32)
  sources = np.array([2, 0, 1, 0, 2, 1])
  query = rng.standard_normal((4, 2, 3, 3)).astype(np.float32)
  found = memorisation.nearest(query, train, sources)
  for m in range(4):
    best = min(
      np.mean(
        [
          min(
            np.linalg.norm(q - token)
            for clip in np.flatnonzero(sources == source)
            for token in train[clip]
          )
          for q in query[m, variant]
        ]
      )
      for variant in range(2)
      for source in range(3)
    )
    assert found.distance[m] == pytest.approx(best, rel=1e-5)


def test_windows_of_the_own_video_do_not_count_as_other_videos():
  train = np.array([[0.0], [0.1], [5.0], [5.1]])[:, None]
  found = memorisation.nearest(
    train[:, None], train, np.array([0, 0, 1, 1]), own=np.array([0, 0, 1, 1])
  )
  np.testing.assert_allclose(found.distance, [5, 4.9, 4.9, 5], rtol=1e-6)


def test_one_video_cannot_tell_what_is_usual():
  tokens = np.zeros((3, 2, 4))
  with pytest.raises(ValueError, match="at least 2 videos"):
    memorisation.compare_space(tokens[:, None], tokens, np.zeros(3, int), 0)
