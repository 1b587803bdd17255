"""Clips that cannot be used, and how often clips are decoded."""

import pytest

from mmdiff_jax.evaluation import clip_sets
from mmdiff_jax.media import reading
from tests.evaluation_fixtures import SPEC, light, make_arrays, run


@pytest.fixture(scope="module")
def real():
  return make_arrays("train", 24)


@pytest.fixture(scope="module")
def fake():
  return make_arrays("eval", 16)


@pytest.fixture
def files(real, tmp_path):
  """21 good files, one of them with a name that is not UTF-8."""
  folder = tmp_path / "clips"
  folder.mkdir()
  for i in range(21):
    name = b"%02d.mp4" % i if i else b"\xff\xfe.mp4"
    reading.write_mp4(
      folder / name.decode("utf-8", "surrogateescape"),
      real["video"][i],
      real["audio"][i],
      fps=SPEC.fps,
      sample_rate=SPEC.sample_rate,
    )
  return folder


def test_one_bad_clip_is_left_out_and_listed(files, fake, tmp_path):
  whole = run(fake, files, metrics=["fad_mel"])
  reading.write_mp4(files / "mute.mp4", fake["video"][0], None, fps=SPEC.fps)
  output = tmp_path / "report.json"
  report = run(fake, files, metrics=["fad_mel"], output=output)
  assert light(report) == light(whole)
  assert report["fake"]["used"] == 21
  ((name, reason),) = report["fake"]["skipped"]
  assert name == "mute.mp4" and reason.startswith("has no audio")
  assert any("mute.mp4: has no audio" in w for w in report["warnings"])
  assert "\\udcff\\udcfe.mp4" in report["fake"]["clips"]
  # Its picture is good: metrics of pictures take it.
  video = run(fake, files, metrics=["av_gap"], max_bad=0.5)
  assert video["fake"]["used"] == 21
  with pytest.raises(ValueError, match="1 of 22 clips cannot be used.*mute"):
    run(fake, files, metrics=["fad_mel"], max_bad=0.01)


def test_a_clip_that_breaks_in_mid_decoding_is_left_out(files, fake):
  path = files / "05.mp4"
  data = bytearray(path.read_bytes())
  data[len(data) // 3 : len(data) // 2] = b"\xff" * (
    len(data) // 2 - len(data) // 3
  )
  path.write_bytes(data)
  report = run(fake, files, metrics=["fad_mel"])
  (name, _) = report["fake"]["skipped"][0]
  assert name == "05.mp4" and report["fake"]["used"] == 20


@pytest.mark.parametrize(
  "text", ["{}", "[]", '{"samples": [1]}', '{"samples": [{"file": 3}]}', "x"]
)
def test_a_damaged_listing_of_samples_is_one_error(fake, tmp_path, text):
  (tmp_path / "samples.json").write_text(text)
  with pytest.raises(
    ValueError, match="samples.json is not a listing"
  ) as error:
    run(fake, tmp_path, metrics=["fad_mel"])
  assert "\n" not in str(error.value)


def test_a_damaged_description_of_records_is_one_error(fake, tmp_path):
  (tmp_path / "dataset.json").write_text("{}")
  with pytest.raises(ValueError, match="dataset.json is damaged"):
    run(tmp_path, fake, metrics=["fad_mel"])


@pytest.fixture
def decoded(monkeypatch):
  """Names of the clips that were decoded, in order."""
  names = []
  decode = clip_sets.ClipSet._decode

  def watched(self, place):
    names.append(str(place))
    return decode(self, place)

  monkeypatch.setattr(clip_sets.ClipSet, "_decode", watched)
  return names


def test_clips_are_decoded_once_and_never_again(files, fake, tmp_path, decoded):
  reading.write_mp4(files / "mute.mp4", fake["video"][0], None, fps=SPEC.fps)
  options = {"metrics": ["fad_mel"], "cache_dir": tmp_path / "cache"}
  first = run(fake, files, **options)
  assert sorted(decoded) == sorted(
    first["real"]["clips"] + first["fake"]["clips"] + ["mute.mp4"]
  )
  decoded.clear()
  again = run(fake, files, **options)
  assert not decoded
  assert light(again) == light(first)
  assert again["fake"]["skipped"] == first["fake"]["skipped"]
  # Pictures alone are another question, and of it the mute clip is good.
  video = run(fake, files, **options | {"metrics": ["av_gap"], "max_bad": 0.5})
  assert video["fake"]["used"] == 21


def test_what_does_not_fit_into_memory_is_decoded_again(
  real, fake, decoded, monkeypatch
):
  whole = run(real, fake, metrics=["fad_mel"])
  decoded.clear()
  clip = SPEC.frames * SPEC.height * SPEC.width * 3 + 4 * SPEC.audio_length
  monkeypatch.setattr(clip_sets, "_KEPT_BYTES", 10 * clip)
  assert light(run(real, fake, metrics=["fad_mel"])) == light(whole)
  assert len(decoded) == 24 + 14 + 16 + 6


def test_a_clip_that_changes_is_judged_anew(files, fake, tmp_path):
  options = {"metrics": ["fad_mel"], "cache_dir": tmp_path / "cache"}
  assert run(fake, files, **options)["fake"]["used"] == 21
  data = (files / "05.mp4").read_bytes()
  third, half = len(data) // 3, len(data) // 2
  (files / "05.mp4").write_bytes(
    data[:third] + b"\xff" * (half - third) + data[half:]
  )
  report = run(fake, files, **options)
  assert [name for name, _ in report["fake"]["skipped"]] == ["05.mp4"]
