"""A real browser answers a whole session; playing is enforced."""

import contextlib
import dataclasses
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from mmdiff_jax.study.folder import ANSWERS
from mmdiff_jax.study.serving.conduct import Conduct, invite
from mmdiff_jax.study.store import Store
from tests import browser
from tests.study_fixtures import build_small

ROOT = __file__.rpartition("/tests/")[0]

pytestmark = pytest.mark.skipif(
  browser.CHROMIUM is None, reason="no Chromium is installed"
)


def free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


@contextlib.contextmanager
def serving(study, *flags):
  """The port of a study's server."""
  port = free_port()
  process = subprocess.Popen(
    [sys.executable, "main.py", "study", "serve", str(study.path),
     f"--port={port}", *flags],
    cwd=ROOT, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  try:
    for _ in range(600):
      try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        break
      except urllib.error.URLError:
        assert process.poll() is None
        time.sleep(0.05)
    yield port
  finally:
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
  """(study, address of its server)."""
  study = build_small(tmp_path_factory.mktemp("browsed"))
  with serving(study, "--per_client=20") as port:
    yield study, f"http://127.0.0.1:{port}/"


@pytest.fixture
def window(tmp_path):
  with browser.Browser(tmp_path / "profile") as opened:
    yield opened


def go(window, address):
  window.call("Page.navigate", url=address)
  window.wait("document.readyState === 'complete'")


def enter(window, study, address):
  """Consents, counts the tones; returns the token."""
  go(window, address)
  window.evaluate("document.querySelector('[name=consent]').click()")
  window.evaluate("document.querySelector('button').click()")
  window.wait("document.body?.dataset.phase === 'introduction'")
  token = window.evaluate("location.pathname").rpartition("/")[2]
  begin(window)
  window.wait("document.body?.dataset.phase === 'tones'")
  store = Store(study.path / ANSWERS)
  count = Conduct(study, store).number_of_tones(token)
  store.close()
  window.evaluate(f"byId('count').value = {count}")
  window.evaluate("document.querySelector('#counted button').click()")
  window.wait("document.body?.dataset.phase === 'trial'")
  return token


def begin(window):
  window.wait("typeof state !== 'undefined' && state !== null")
  window.evaluate("byId('begin').click()")


def wait_for_play(window):
  window.wait("buttons.some((b) => !b.disabled)", timeout=40)


def answer_by_keys(window):
  """Plays what there is and answers, by the keyboard alone."""
  trial = window.evaluate("state.trial")
  for side in range(window.evaluate("videos.length")):
    window.wait(f"ready({side})", timeout=40)
    window.press(" ")
    window.wait(f"ended[{side}]", timeout=40)
  for _ in range(window.evaluate("fields.length")):
    window.press("2")
  window.wait("!byId('send').disabled")
  window.press("Enter")
  window.wait(f"state.trial > {trial}", timeout=40)


def test_a_whole_session_by_keyboard(served, window):
  study, address = served
  token = enter(window, study, address)
  total = window.evaluate("state.total")
  answer_by_keys(window)
  go(window, f"{address}s/{token}")  # Resumed where it stood.
  begin(window)
  window.wait("document.body?.dataset.phase === 'trial'")
  assert window.evaluate("state.trial") == 1
  assert window.evaluate("byId('place').textContent") == f"Clip 2 of {total}"
  while window.evaluate("state.phase") == "trial":
    answer_by_keys(window)
  assert window.evaluate("document.body?.dataset.phase") == "done"
  assert "Your answers are saved" in window.evaluate("document.body.innerText")
  assert not window.errors
  assert all(url.startswith((address, "about:")) for url in window.requests)
  store = Store(study.path / ANSWERS)
  (rater,) = [r for r in store.raters() if store.votes_of(r.rater) == total]
  votes = store.events(rater.rater, "vote")
  store.close()
  assert {v for e in votes for v in e.data["answers"].values()} == {2}


def test_an_early_click_is_refused_by_page_and_server(served, window):
  study, address = served
  enter(window, study, address)
  wait_for_play(window)
  assert window.evaluate("fields.every((field) => field.disabled)")
  window.press("1")
  assert window.evaluate("document.querySelector('input:checked')") is None
  body = window.evaluate(
    "JSON.stringify({trial: 0, clips: state.clips, fault: false, answers: "
    "Object.fromEntries(fields.map((f) => [f.dataset.scale, 1]))})"
  )
  early = window.evaluate(f"ask('api/vote', {body}).then((a) => a.status)")
  assert early == 425
  # Jumping to the end is undone.
  window.evaluate("buttons[0].click()")
  window.wait("!videos[0].paused")
  window.evaluate("void (videos[0].currentTime = videos[0].duration - 0.05)")
  assert not window.evaluate("ended[0]")
  window.wait("ended[0]", timeout=40)
  assert window.evaluate("videos[0].muted") is False


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_nothing_sticks_out(served, window, width, height):
  study, address = served
  window.call(
    "Emulation.setDeviceMetricsOverride",
    width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
  )  # fmt: skip
  enter(window, study, address)
  wait_for_play(window)
  inner = window.evaluate("document.documentElement.scrollWidth")
  assert inner <= width
  small = window.evaluate(
    "JSON.stringify([...document.querySelectorAll('button, .points label')]"
    ".filter((e) => e.offsetParent && e.getBoundingClientRect().height < 40)"
    ".map((e) => e.textContent))"
  )
  assert json.loads(small) == []


def plain_address():
  """An address of this machine whose pages browsers do not trust, or None."""
  with contextlib.closing(
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
  ) as s:
    try:
      s.connect(("203.0.113.1", 9))  # Sends nothing.
    except OSError:
      return None
    host = s.getsockname()[0]
  return None if host.startswith("127.") else host


@pytest.mark.skipif(plain_address() is None, reason="no network address")
def test_an_invitation_opens_one_session_and_other_sites_open_none(
  served, window, tmp_path
):
  study = dataclasses.replace(served[0], path=tmp_path / "study")
  shutil.copytree(served[0].path, study.path)
  for file in study.path.glob("answers.db*"):
    file.unlink()
  host = plain_address()
  with serving(study, "--host=0.0.0.0") as port:
    # Of such a page browsers tell its Origin alone: "null" without a referrer.
    address = f"http://{host}:{port}"
    (link,) = invite(study.path, 1, address)
    go(window, link)
    assert not window.evaluate("isSecureContext")
    window.evaluate("document.querySelector('[name=consent]').click()")
    window.evaluate("document.querySelector('button').click()")
    window.wait("document.body?.dataset.phase === 'introduction'")
    assert window.evaluate("location.href") == link
    foreign = tmp_path / "foreign.html"
    foreign.write_text(
      f"<form method=post action={address}/start><input name=language "
      "value=en><input name=consent value=yes><button>Win</button></form>"
    )
    window.open(foreign)
    window.evaluate("document.querySelector('button').click()")
    window.wait("document.body?.innerText.includes('another site')")
    go(window, f"{address}/")
    assert "by invitation" in window.evaluate("document.body.innerText")
    assert window.evaluate("document.forms.length") == 0
  with contextlib.closing(Store(study.path / ANSWERS)) as store:
    assert len(store.raters()) == 1
