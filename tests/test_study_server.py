"""The server: what it says, and what it tells nobody."""

import http.server
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from fastapi.testclient import TestClient

from mmdiff_jax.study.folder import load_study
from mmdiff_jax.study.serving.conduct import Conduct
from mmdiff_jax.study.serving.server import create_app
from mmdiff_jax.study.serving.tones import tones_wav
from mmdiff_jax.study.store import Store
from tests.study_fixtures import answers, build_small

ROOT = __file__.rpartition("/tests/")[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
  return build_small(tmp_path_factory.mktemp("served"))


@pytest.fixture
def client(study, tmp_path):
  store = Store(tmp_path / "web.db")
  with TestClient(create_app(study, store), follow_redirects=False) as client:
    client.store = store
    yield client
  store.close()


def join(client, language="en"):
  form = {"language": language, "consent": "yes"}
  answer = client.post("/start", data=form)
  assert answer.status_code == 303
  return answer.headers["location"].rpartition("/")[2]


@pytest.mark.parametrize(
  ("language", "words"),
  [("en", "Taking part is voluntary"), ("de", "freiwillig"), ("zh", "自愿")],
)
def test_pages_speak_the_language_and_need_consent(client, language, words):
  page = client.get("/", headers={"Accept-Language": f"{language}-XX,fr;q=0.5"})
  assert words in page.text and f'lang="{language}"' in page.text
  assert client.post("/start", data={"language": language}).status_code == 422
  session = client.get(f"/s/{join(client, language)}")
  assert f'lang="{language}"' in session.text


def test_nothing_comes_from_elsewhere(client):
  token = join(client)
  pages = [client.get("/"), client.get(f"/s/{token}")]
  pages += [client.get(f"/static/study.{kind}") for kind in ("js", "css")]
  for page in pages:
    assert page.status_code == 200
    assert not re.search(r"https?://", page.text)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert page.headers["referrer-policy"] == "no-referrer"
  for page in pages[:2]:
    assert " style=" not in page.text and "<style" not in page.text
    inline = re.findall(r"<script(?![^>]*src=)([^>]*)>", page.text)
    assert all("application/json" in attributes for attributes in inline)


def test_clips_come_in_ranges_and_alike(client, study):
  headers = []
  for clip in study.clips:
    answer = client.get(
      f"/clips/{clip}.mp4", headers={"Range": "bytes=100-299"}
    )
    assert answer.status_code == 206
    whole = study.clip_path(clip).read_bytes()
    assert answer.content == whole[100:300]
    assert answer.headers["content-range"] == f"bytes 100-299/{len(whole)}"
    headers.append(tuple(sorted(answer.headers.items())))
  assert len(set(headers)) == 1
  for name in ("0" * 24, "..%2ftruth", "truth.json"):
    assert client.get(f"/clips/{name}.mp4").status_code == 404
  for path in ("/truth.json", "/study.json", "/static/start.html"):
    assert client.get(path).status_code == 404


def test_the_truth_is_never_sent(client, study):
  token = join(client)
  state = client.get("/api/state", headers={"X-Token": token})
  page = client.get(f"/s/{token}")
  for text in (state.text, page.text):
    for word in ('"good"', '"bad"', '"real"', "trap", "repeat"):
      assert word not in text


def test_admin_is_behind_its_token(client, study):
  secret = (study.path / "admin_token").read_text().strip()
  join(client)
  assert client.get("/admin/wrong").status_code == 404
  assert client.get("/admin/wrong/votes.csv").status_code == 404
  page = client.get(f"/admin/{secret}")
  assert page.status_code == 200 and "<h2>Raters</h2>" in page.text
  csv = client.get(f"/admin/{secret}/votes.csv").text
  assert csv.startswith("time,rater,slot,task,trial,kind,clips,scale,value")
  assert client.get(f"/admin/{secret}/votes.json").json() == []


def test_no_address_and_no_agent_is_stored(study, tmp_path):
  store = Store(tmp_path / "private.db")
  app = create_app(study, store)
  agent = "Peculiar/1.0"
  headers = {"User-Agent": agent}
  with TestClient(app, headers=headers, follow_redirects=False) as client:
    token = join(client)
    client.post("/api/tones", json={"count": 3}, headers={"X-Token": token})
  store.close()
  stored = b"".join(p.read_bytes() for p in tmp_path.glob("private.db*"))
  assert stored
  for secret in (agent, "testclient", token):
    assert secret.encode() not in stored


def test_below_a_proxys_path(study, tmp_path):
  store = Store(tmp_path / "proxy.db")
  app = create_app(study, store, root_path="/some/study")
  with TestClient(app, follow_redirects=False) as client:
    # Proxies that strip their path and such that keep it.
    for prefix in ("", "/some/study"):
      page = client.get(f"{prefix}/")
      assert '<base href="/some/study/">' in page.text
      form = {"language": "en", "consent": "yes"}
      answer = client.post(f"{prefix}/start", data=form)
      assert answer.headers["location"].startswith("/some/study/s/")
      assert client.get(f"{prefix}/static/study.js").status_code == 200
  store.close()


class Proxy(http.server.BaseHTTPRequestHandler):
  """Passes on what is below /some/study, without that path."""

  protocol_version = "HTTP/1.1"
  behind = 0

  def pass_on(self):
    below = self.path.removeprefix("/some/study")
    assert below != self.path, self.path
    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
    headers = dict(self.headers) | {
      "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https",
      "X-Forwarded-Prefix": "/some/study",
    }  # fmt: skip
    answer = httpx.request(
      self.command, f"http://127.0.0.1:{self.behind}{below}", headers=headers,
      content=body,
    )  # fmt: skip
    self.send_response(answer.status_code)
    for name, value in answer.headers.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(answer.content)

  do_GET = do_POST = pass_on

  def log_message(self, *_):
    pass


@pytest.fixture
def proxied(study):
  """The address of the study behind a reverse proxy."""
  (study.path / "answers.db").unlink(missing_ok=True)
  port = free_port()
  process = serving(study.path, port, "--root_path=/some/study")
  handler = type("Handler", (Proxy,), {"behind": port})
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f"http://127.0.0.1:{server.server_port}/some/study/"
  server.shutdown()
  server.server_close()
  process.kill()
  process.wait()


def test_a_vote_through_a_reverse_proxy_leaves_no_address(proxied, study):
  with httpx.Client(base_url=proxied, follow_redirects=True) as client:
    page = client.get("")
    # All that the page names is found below the proxy's path.
    (base,) = re.findall(r'<base href="([^"]*)"', page.text)
    (style,) = re.findall(r'href="(static/[^"]*)"', page.text)
    root = proxied.removesuffix("/some/study/")
    assert client.get(f"{root}{base}{style}").status_code == 200
    form = {"language": "en", "consent": "yes"}
    session = client.post("start", data=form)
    assert session.status_code == 200
    assert str(session.url).startswith(f"{proxied}s/")
    token = str(session.url).rpartition("/")[2]
    client.headers["X-Token"] = token
    store = Store(study.path / "answers.db")
    count = Conduct(study, store).number_of_tones(token)
    store.close()
    assert client.get(f"tones/{token}/3.wav").content == tones_wav(count)
    assert client.post("api/tones", json={"count": count}).json()["right"]
    state = client.get("api/state").json()
    clip = client.get(
      f"clips/{state['clips'][0]}.mp4", headers={"Range": "bytes=0-9"}
    )
    assert (clip.status_code, len(clip.content)) == (206, 10)
    client.post("api/play", json={"trial": 0, "side": 0})
    time.sleep(study.seconds)
    body = {
      "trial": 0, "clips": state["clips"], "fault": False,
      "answers": answers(state["task"]),
    }  # fmt: skip
    assert client.post("api/vote", json=body).json()["trial"] == 1
    secret = (study.path / "admin_token").read_text().strip()
    assert "1 of" in client.get(f"admin/{secret}").text
  stored = b"".join(p.read_bytes() for p in study.path.glob("answers.db*"))
  assert b"203.0.113.7" not in stored and b"127.0.0.1" not in stored


def free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def serving(path, port, *flags):
  process = subprocess.Popen(
    [
      sys.executable, "main.py", "study", "serve", str(path), f"--port={port}",
      *flags,
    ],
    cwd=ROOT, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  for _ in range(600):
    try:
      httpx.get(f"http://127.0.0.1:{port}/static/study.css")
      return process
    except httpx.TransportError:
      assert process.poll() is None
      time.sleep(0.05)
  raise AssertionError("the server does not start")


def test_a_killed_server_loses_no_acknowledged_vote(study):
  (study.path / "answers.db").unlink(missing_ok=True)
  port = free_port()
  acknowledged, token = [], None
  for _ in range(3):
    process = serving(study.path, port)
    try:
      with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        token = token or join(client)
        client.headers["X-Token"] = token
        state = client.get("/api/state").json()
        while state["phase"] == "tones":
          store = Store(study.path / "answers.db")
          count = Conduct(study, store).number_of_tones(token)
          store.close()
          client.post("/api/tones", json={"count": count})
          state = client.get("/api/state").json()
        trial = state["trial"]
        client.post("/api/play", json={"trial": trial, "side": 0})
        time.sleep(study.seconds)
        body = {
          "trial": trial,
          "clips": state["clips"],
          "answers": answers(state["task"]),
          "fault": False,
        }
        assert client.post("/api/vote", json=body).status_code == 200
        acknowledged.append(trial)
    finally:
      process.send_signal(signal.SIGKILL)
      process.wait()
  store = Store(load_study(study.path).path / "answers.db")
  assert [e.trial for e in store.events(kind="vote")] == acknowledged
  store.close()
  assert acknowledged == [0, 1, 2]
