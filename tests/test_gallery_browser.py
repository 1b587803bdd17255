"""The gallery in a real browser: it plays, sorts, and lets nothing out."""

import numpy as np
import pytest

from mmdiff_jax.gallery import make_gallery
from mmdiff_jax.media import reading
from tests import browser
from tests.gallery_fixtures import make_run

pytestmark = pytest.mark.skipif(
  browser.CHROMIUM is None, reason="needs chromium"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  samples = make_run(tmp_path_factory.mktemp("samples"))
  output = tmp_path_factory.mktemp("moved") / "gallery"
  return make_gallery(samples, output, onsets=True, title="Shapes & sounds")


@pytest.fixture(scope="module")
def tab(page, tmp_path_factory):
  with browser.Browser(tmp_path_factory.mktemp("profile")) as opened:
    opened.open(page)
    yield opened


FILES = "cards().map(c => JSON.parse(c.dataset.values).place)"
FOCUS = "cards().indexOf(document.activeElement)"


def shown_by(video, tab, tmp_path):
  """The middle of a player's picture as it is on the screen, `[h, w, 3]`."""
  left, top, width, height = tab.evaluate(f"""(() => {{
    const box = {video}.getBoundingClientRect();
    return [box.left, box.top, box.width, box.height];
  }})()""")
  image = np.asarray(tab.screenshot(tmp_path / "shot.png").convert("RGB"))
  box = image[round(top) : round(top + height), round(left) :][
    :, : round(width)
  ]
  # Each pixel of the clip is a square of six; the middle of each.
  return box[3::6, 3::6].astype(int)


def test_before_it_is_played_a_player_shows_its_first_frame(page, tmp_path):
  (name,) = page.parent.glob("*1.mp4")
  first = reading.read_media(name).video[0].astype(int)
  assert np.ptp(first) > 150
  with browser.Browser(tmp_path / "profile") as tab:
    # Nothing is read of the media: as where a browser reads none at once.
    tab.call("Network.setBlockedURLs", urls=["*.mp4"])
    tab.open(page)
    video = "player(cards()[1])"
    tab.evaluate(f"{video}.scrollIntoView({{block: 'center'}})")
    tab.wait(f"{video}.preload === 'auto'")
    assert tab.evaluate(f"{video}.videoWidth") == 0
    seen = shown_by(video, tab, tmp_path)
  assert seen.shape == first.shape
  assert np.abs(seen - first).mean() < 6  # JPEG.


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


def test_browser_plays_with_sound_and_moves_the_head(tab):
  tab.evaluate("player(cards()[0]).play()")
  tab.wait("player(cards()[0]).webkitAudioDecodedByteCount > 0")
  tab.wait("parseFloat(cards()[0].querySelector('.head').style.left) > 5")
  tab.evaluate("player(cards()[1]).play()")
  tab.wait("player(cards()[0]).paused && !player(cards()[1]).paused")
  tab.evaluate("player(cards()[1]).pause()")
  assert tab.errors == []


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


def test_browser_sorts(tab):
  assert tab.evaluate(FILES) == [0, 1, 2]
  tab.evaluate("""(sort.value = "loss",
    sort.dispatchEvent(new Event("change")))""")
  assert tab.evaluate(FILES) == [1, 0, 2]
  tab.evaluate("order.click()")
  assert tab.evaluate(FILES) == [2, 0, 1]
  assert tab.evaluate("getComputedStyle(order, '::before').content") != "none"
  tab.evaluate("""(sort.value = "place",
    sort.dispatchEvent(new Event("change")))""")
  assert tab.evaluate(FILES) == [2, 1, 0]
  tab.evaluate("order.click()")


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


def test_controls_stand_below_the_picture_and_work(tab):
  tab.evaluate("cards()[0].scrollIntoView()")
  below, video = tab.evaluate("""(() => {
    const box = (name) => cards()[0].querySelector(name)
      .getBoundingClientRect();
    return [box(".controls").top, box("video").bottom];
  })()""")
  assert below >= video
  assert tab.evaluate("players().every(media => !media.controls)")
  click = "cards()[0].querySelector('.{}').click()"
  tab.evaluate(click.format("mute"))
  tab.wait("player(cards()[0]).muted")
  pressed = "cards()[0].querySelector('.mute').getAttribute('aria-pressed')"
  tab.wait(f"{pressed} === 'true'")
  tab.evaluate(click.format("mute"))
  tab.wait(f"{pressed} === 'false'")
  tab.evaluate(click.format("play"))
  tab.wait("cards()[0].querySelector('.play').textContent === 'Pause'")
  tab.evaluate(click.format("play"))
  tab.wait("player(cards()[0]).paused")
  tab.evaluate("""(() => {
    const seek = cards()[0].querySelector("input");
    seek.value = .5;
    seek.dispatchEvent(new Event("input"));
  })()""")
  tab.wait("Math.abs(player(cards()[0]).currentTime - 0.8) < 0.1")
  assert tab.errors == []


def test_pictures_have_a_whole_multiple_of_their_size(tab):
  assert tab.evaluate("player(cards()[0]).getBoundingClientRect().width") == 192
  # The row of frames: 16 of 32 pixels, drawn for two pixels to one.
  image = "cards()[0].querySelector('img')"
  assert tab.evaluate(f"{image}.getBoundingClientRect().width") == 512


HOSTILE = (
  '"><img src=x onerror=document.title=1>.wav',
  "<svg onload=document.title=1>.wav",
  "'-alert(1)-'.wav",
  "javascript:alert(1)&amp;{{cards}}.wav",
)


def test_browser_runs_nothing_but_the_page_s_own_script(tmp_path):
  folder = tmp_path / "samples"
  folder.mkdir()
  for name in HOSTILE:
    reading.write_wav(folder / name, np.zeros((400, 1)), 4000)
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
