"""The gallery shows every clip, survives odd folders, works in a browser."""

import html.parser
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mmdiff_jax.av import AVSpec
from mmdiff_jax.data import media
from mmdiff_jax.evaluation.report import players
from mmdiff_jax.gallery import make_gallery, picture
from mmdiff_jax.world.clips import make_clip, split_seed
from tests import browser

SPEC = AVSpec(16, 32, 32, 10.0, 4000)
LOSSES = [0.2, 0.1, 0.3]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
  """A folder as `sample` writes it, with awkward names and values."""
  directory = tmp_path_factory.mktemp("samples")
  entries = []
  for i, loss in enumerate(LOSSES):
    clip = make_clip(split_seed("tune", i), SPEC)
    name = "sample_#2 & <b>.mp4" if i == 2 else f"sample_{i:06d}.mp4"
    rates = {"fps": SPEC.fps, "sample_rate": SPEC.sample_rate}
    media.write_mp4(directory / name, clip.video, clip.audio, **rates)
    entries.append(
      {"file": name, "seed": 7, "index": i, "loss": loss, "condition": None}
    )
  settings = {
    "seed": 7,
    "sample": {"sampler": "ddim"},
    "note": "</script>{{x}}",
  }
  (directory / "samples.json").write_text(
    json.dumps({"settings": settings, "samples": entries})
  )
  return directory


@pytest.fixture(scope="module")
def page(samples, tmp_path_factory):
  output = tmp_path_factory.mktemp("moved") / "gallery"
  return make_gallery(samples, output, onsets=True, title="Shapes & sounds")


def test_subfolders_of_samples_are_shown_together(samples, tmp_path):
  for name in ("audio_to_video", "joint"):
    shutil.copytree(samples, tmp_path / name)
  page = make_gallery(tmp_path).read_text(encoding="utf-8")
  for name in ("audio_to_video", "joint"):
    assert f'src="{name}/sample_000000.mp4"' in page
    assert f"{name}: seed" in page
  assert page.count("<li class") == 2 * len(LOSSES)
  assert "<option>run</option>" in page


class _Parser(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.found = []
    self.text = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text.append(data)

  def all(self, tag, **wanted):
    return [
      attrs
      for name, attrs in self.found
      if name == tag
      and all(attrs.get(k.rstrip("_")) == v for k, v in wanted.items())
    ]


def parse(page):
  return _Parser(page.read_text(encoding="utf-8"))


def test_the_folder_holds_all_that_the_page_names(page):
  from urllib.parse import unquote

  parsed = parse(page)
  sources = [a["src"] for a in parsed.all("video") + parsed.all("img")]
  assert len(sources) == 6
  for source in sources:
    assert (page.parent / unquote(source)).stat().st_size > 0
  text = page.read_text(encoding="utf-8")
  assert "http://" not in text and "https://" not in text
  assert not parsed.all("script", src="") and not parsed.all("link", href="")


def test_settings_and_facts_are_shown_as_text(page):
  parsed = parse(page)
  for words in ("Shapes & sounds", "sample.sampler", "ddim", "</script>{{x}}"):
    assert words in parsed.text
  values = [json.loads(a["data-values"]) for a in parsed.all("li")]
  assert [v["loss"] for v in values] == LOSSES
  assert values[2]["file"] == "sample_#2 & <b>.mp4"
  options = len(parsed.all("option"))
  assert options == len(values[0])


def test_marks_lie_at_the_impacts(page):
  parsed = parse(page)
  count = sum(
    len(make_clip(split_seed("tune", i), SPEC).impact_times) for i in range(3)
  )
  heard = parsed.all("div", class_="mark heard")
  assert len(heard) == len(parsed.all("div", class_="mark seen")) == count
  clip = make_clip(split_seed("tune", 0), SPEC)
  left = [float(a["style"].split(":")[1].rstrip("%")) for a in heard]
  expected = clip.impact_times / SPEC.duration * 100
  np.testing.assert_allclose(left[: len(expected)], expected, atol=0.5)
  values = [json.loads(a["data-values"]) for a in parsed.all("li")]
  assert sum(v["impacts matched"] for v in values) == count


def test_without_onsets_nothing_is_marked_and_the_folder_is_used(
  samples, tmp_path
):
  folder = shutil.copytree(samples, tmp_path / "samples")
  path = make_gallery(folder)
  assert path == folder / "index.html"
  parsed = parse(path)
  assert not parsed.all("input") and not parsed.all("div", class_="mark heard")
  make_gallery(folder)  # its own pictures are no clips
  assert len(parse(path).all("video")) == 3


@pytest.mark.parametrize(
  ("listing", "words"),
  [
    (None, None),
    ("{broken", "samples.json cannot be read"),
    ("[1]", "samples.json holds no object"),
    ('{"samples": [{"seed": 1}, 3]}', None),
    ('{"samples": null, "settings": [1]}', None),
    ('{"samples": [{"file": "../secret.mp4"}]}', "../secret.mp4"),
  ],
)
def test_folders_without_a_sound_listing(samples, tmp_path, listing, words):
  folder = tmp_path / "folder"
  folder.mkdir()
  shutil.copyfile(samples / "sample_000000.mp4", folder / "a.mp4")
  shutil.copyfile(samples / "sample_000000.mp4", tmp_path / "secret.mp4")
  if listing is not None:
    (folder / "samples.json").write_text(listing)
  parsed = parse(make_gallery(folder))
  assert [a["src"] for a in parsed.all("video")] == ["a.mp4"]
  warning = " ".join(parsed.text)
  assert words is None or words in warning


def test_damaged_files_and_wavs(samples, tmp_path):
  (tmp_path / "bad.mp4").write_bytes(b"no video")
  wave = np.sin(np.arange(4000) / 3)[:, None].astype(np.float32)
  media.write_wav(tmp_path / "alone.wav", wave, 4000)
  shutil.copyfile(samples / "sample_000000.mp4", tmp_path / "good.mp4")
  media.write_wav(tmp_path / "good.wav", np.zeros((6400, 1)), 4000)
  parsed = parse(make_gallery(tmp_path, onsets=True))
  assert len(parsed.all("li")) == 3
  assert [a["src"] for a in parsed.all("audio")] == ["alone.wav"]
  assert [a["src"] for a in parsed.all("video")] == ["good.mp4"]
  assert any("damaged" in text for text in parsed.text)
  # The wav beside an mp4 is what is drawn and heard: silence here.
  values = [json.loads(a["data-values"]) for a in parsed.all("li")]
  good = next(v for v in values if v["file"] == "good.mp4")
  assert good["impacts heard"] == 0 < good["impacts seen"]


def test_names_that_are_no_text(samples, tmp_path):
  from urllib.parse import unquote_to_bytes

  folder = tmp_path / os.fsdecode(b"f\xff")
  folder.mkdir()
  for name in (b"z\xff.mp4", b"a\n<b>.mp4"):
    shutil.copyfile(samples / "sample_000000.mp4", folder / os.fsdecode(name))
  parsed = parse(make_gallery(folder))
  sources = [a["src"] for a in parsed.all("video") + parsed.all("img")]
  assert len(sources) == 4
  for source in sources:
    assert (folder / os.fsdecode(unquote_to_bytes(source))).is_file()
  assert "z\\udcff.mp4" in parsed.text


def test_a_folder_without_clips_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no mp4 or wav"):
    make_gallery(tmp_path)
  with pytest.raises(ValueError, match="not a directory"):
    make_gallery(tmp_path / "absent")


def test_rows_of_a_picture_share_the_time_axis():
  video = np.zeros((16, 32, 32, 3), np.uint8)
  video[4] = 255
  audio = np.zeros((6400, 1), np.float32)
  audio[1600:2000:2], audio[1601:2000:2] = 0.9, -0.9  # during frame 4
  image = np.asarray(picture.render_clip(video, audio, 4000)).astype(int)
  strip = round(picture.strip_share(video, True) * len(image))
  slot = slice(4 * 64, 5 * 64)
  assert image[:strip, slot].min() == 255
  assert image[:strip, : 4 * 64].max() == 0 == image[:strip, 5 * 64 :].max()
  wave = image[strip + 4 : strip + 76]
  height = (wave == (120, 190, 255)).all(axis=-1).sum(axis=0)
  assert height[slot].min() > 60 > 3 >= np.delete(height, slot).max()
  mel = image[strip + 80 :].sum(axis=(0, 2))
  assert 4 * 64 - 10 <= mel.argmax() <= 5 * 64 + 10


def test_mel_spectrogram_shows_pitch_and_keeps_silence_dark():
  time = np.arange(16000) / 8000
  heights = []
  for pitch in (300, 1000, 3000):
    wave = np.sin(2 * np.pi * pitch * time)[:, None]
    image = picture.mel_spectrogram(wave, 8000).sum(axis=(1, 2))
    heights.append(int(image.argmax()))
  assert heights[0] > heights[1] > heights[2]  # rows count from the top
  silence = picture.mel_spectrogram(1e-7 * wave, 8000)
  assert silence.max() < 20


@pytest.mark.parametrize("shape", [(1, 16, 16), (5, 40, 24), (160, 9, 16)])
def test_any_clip_can_be_drawn(shape):
  video = np.full((*shape, 3), 90, np.uint8)
  image = picture.render_clip(video, np.zeros((7, 1)), 2000, width=320)
  assert image.width == 320
  assert picture.render_clip(video, None, None).width == picture.WIDTH
  with pytest.raises(ValueError, match="video or audio"):
    picture.render_clip(None, None, None)


def test_command_draws_files_with_their_impacts(samples, tmp_path, capsys):
  files = [str(samples / f"sample_{i:06d}.mp4") for i in (0, 1)]
  plain, marked = tmp_path / "plain.png", tmp_path / "marked.png"
  picture.main([*files, str(plain)])
  picture.main([*files, str(marked), "--onsets"])
  plain, marked = (np.asarray(Image.open(p)) for p in (plain, marked))
  assert plain.shape == marked.shape == (2 * 272 + 16, 1024, 3)
  assert (
    (plain != marked).any(axis=-1)
    == (
      (marked == picture.SEEN).all(axis=-1)
      | (marked == picture.HEARD).all(axis=-1)
    )
  ).mean() > 0.999
  with pytest.raises(SystemExit):
    picture.main([str(tmp_path / "no.mp4"), str(tmp_path / "x.png")])
  assert "no.mp4" in capsys.readouterr().err


needs_browser = pytest.mark.skipif(
  browser.CHROMIUM is None, reason="needs chromium"
)


@pytest.fixture(scope="module")
def tab(page, tmp_path_factory):
  with browser.Browser(tmp_path_factory.mktemp("profile")) as opened:
    opened.open(page)
    yield opened


FILES = "cards().map(c => JSON.parse(c.dataset.values).listed)"
FOCUS = "cards().indexOf(document.activeElement)"


@needs_browser
def test_browser_decodes_all_media_without_errors_or_network(tab):
  for i in range(3):
    tab.evaluate(f"cards()[{i}].scrollIntoView()")
    tab.wait(f"player(cards()[{i}]).videoWidth === 32")
    tab.wait(f"cards()[{i}].querySelector('img').naturalWidth === 1024")
  durations = tab.evaluate("cards().map(c => player(c).duration)")
  np.testing.assert_allclose(durations, 1.6, atol=0.1)
  assert tab.errors == []
  assert tab.requests
  assert {url.split(":")[0] for url in tab.requests} <= {"file", "data"}


@needs_browser
def test_browser_plays_with_sound_and_moves_the_head(tab):
  tab.evaluate("player(cards()[0]).play()")
  tab.wait("player(cards()[0]).webkitAudioDecodedByteCount > 0")
  tab.wait("parseFloat(cards()[0].querySelector('.head').style.left) > 5")
  tab.evaluate("player(cards()[1]).play()")
  tab.wait("player(cards()[0]).paused && !player(cards()[1]).paused")
  tab.evaluate("player(cards()[1]).pause()")
  assert tab.errors == []


@needs_browser
def test_browser_seeks_at_a_click_on_the_picture(tab):
  tab.evaluate("""(() => {
    const panel = cards()[2].querySelector(".panel");
    panel.scrollIntoView();
    const box = panel.getBoundingClientRect();
    panel.dispatchEvent(new MouseEvent("click", {
      clientX: box.left + box.width / 2, clientY: box.top + 5, bubbles: true,
    }));
  })()""")
  tab.wait("Math.abs(player(cards()[2]).currentTime - 0.8) < 0.1")


@needs_browser
def test_browser_sorts(tab):
  assert tab.evaluate(FILES) == [0, 1, 2]
  tab.evaluate("""(sort.value = "loss",
    sort.dispatchEvent(new Event("change")))""")
  assert tab.evaluate(FILES) == [1, 0, 2]
  tab.evaluate("order.click()")
  assert tab.evaluate(FILES) == [2, 0, 1]
  tab.evaluate("""(sort.value = "seed",
    sort.dispatchEvent(new Event("change")))""")
  assert tab.evaluate(FILES) == [0, 1, 2]  # equal: as listed
  tab.evaluate("order.click()")


@needs_browser
def test_browser_is_usable_by_keyboard_alone(tab):
  tab.evaluate("document.activeElement.blur()")
  tab.press("j")
  assert tab.evaluate(FOCUS) == 0
  tab.press("j")
  tab.press("j")
  tab.press("j")
  assert tab.evaluate(FOCUS) == 2
  tab.press("k")
  assert tab.evaluate(FOCUS) == 1
  tab.press(" ")
  tab.wait("!player(cards()[1]).paused")
  tab.press(" ")
  tab.wait("player(cards()[1]).paused")
  assert tab.evaluate("document.body.classList.contains('marked')")
  tab.press("o")
  assert (
    tab.evaluate("getComputedStyle(document.querySelector('.mark')).display")
    == "none"
  )
  tab.press("o")
  tab.press("r")
  assert tab.evaluate("order.getAttribute('aria-pressed')") == "true"
  tab.press("r")
  tab.press("s")
  assert tab.evaluate("document.activeElement.id") == "sort"
  tab.press("Tab")
  assert tab.evaluate("document.activeElement.id") == "order"
  assert tab.errors == []


HOSTILE = (
  '"><img src=x onerror=document.title=1>.wav',
  "<svg onload=document.title=1>.wav",
  "'-alert(1)-'.wav",
  "javascript:alert(1)&amp;{{cards}}.wav",
)


@needs_browser
def test_browser_runs_nothing_but_the_page_s_own_script(tmp_path):
  folder = tmp_path / "samples"
  folder.mkdir()
  for name in HOSTILE:
    media.write_wav(folder / name, np.zeros((400, 1)), 4000)
  page = make_gallery(folder, title="safe")
  with browser.Browser(tmp_path / "profile") as tab:
    tab.open(page)
    tab.wait("cards().every(c => (c.scrollIntoView(), player(c).duration > 0))")
    tab.wait("cards().every(c => c.querySelector('img').naturalWidth > 0)")
    assert sorted(tab.evaluate("cards().map(c => c.ariaLabel)")) == sorted(
      HOSTILE
    )
    assert tab.errors == []
    # Had a name got through: neither would it run, nor could it reach out.
    tab.evaluate(
      "document.body.insertAdjacentHTML('beforeend', "
      "'<img src=data:, onerror=document.title=1><a onclick=x>')"
    )
    assert tab.evaluate(
      "fetch('http://localhost:9/').then(() => 'sent', e => e.message)"
    )
    assert tab.evaluate("document.title").startswith("safe")
    assert any("Content Security Policy" in error for error in tab.errors)


@needs_browser
def test_browser_shows_a_report_and_runs_no_script_in_it(tmp_path):
  clip = make_clip(split_seed("tune", 0), SPEC)
  body = players.figure(
    {"video": clip.video, "audio": clip.audio[:, 0]},
    SPEC,
    "<script>document.title = 'run'</script>",
  )
  path = tmp_path / "report.html"
  path.write_text(players.page("safe", body))
  with browser.Browser(tmp_path / "profile") as tab:
    tab.open(path)
    tab.wait("document.querySelector('video').videoWidth === 32")
    assert tab.errors == []
    path.write_text(players.page("safe", "<script>document.title = 1</script>"))
    tab.open(path)
    tab.wait("document.title === 'safe'")
    assert any("Content Security Policy" in error for error in tab.errors)
