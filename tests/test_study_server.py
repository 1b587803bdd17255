"""The server: what it says, and what it tells nobody."""

import contextlib
import http.server
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import httpx
import pytest
from fastapi.testclient import TestClient

from mmdiff_jax.study import ledger
from mmdiff_jax.study.folder import load_study
from mmdiff_jax.study.serving.conduct import Conduct, Refused
from mmdiff_jax.study.serving.guard import Limit
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


def test_large_bodies_are_refused_before_they_are_read(client):
  for path in ("/start", "/api/tones", "/api/play", "/api/vote", "/nowhere"):
    body = b"[" + b" " * 65_536 + b"]"
    whole = client.post(path, content=body)
    in_pieces = client.post(path, content=iter([body[:40_000], body[40_000:]]))
    assert whole.status_code == in_pieces.status_code == 413, path
    assert "65536 bytes" in whole.json()["reason"]
  form = {"language": "en", "consent": "yes", "more": "x" * 60_000}
  assert client.post("/start", data=form).status_code == 303


HOSTILE_BODIES = (
  b'{"count": NaN}', b'{"count": -Infinity}', b'{"count": 1e999}',
  b'{"count": "\\ud800"}', b'{"\\udfff": 1, "count": 3}', b"[" * 50_000,
  b'{"count": 3', b"\xff\xfe", b'{"count": ' + b"9" * 5000 + b"}", b"{}{}",
)  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE_BODIES, ids=range(len(HOSTILE_BODIES)))
@pytest.mark.parametrize("path", ["tones", "play", "vote"])
def test_what_is_no_json_is_refused_in_a_line(client, path, body):
  headers = {"X-Token": join(client), "Content-Type": "application/json"}
  answer = client.post(f"/api/{path}", content=body, headers=headers)
  assert (answer.status_code, answer.json()) == (
    400, {"reason": "This is not JSON."},
  )  # fmt: skip


def test_values_of_wrong_types_are_named_and_not_repeated(client):
  headers = {"X-Token": join(client)}
  body = {"trial": "zero", "clips": [["\u00e9" * 9]], "answers": {"x": 1.5}}
  answer = client.post("/api/vote", json=body, headers=headers)
  assert answer.status_code == 422
  reason = answer.json()["reason"]
  assert "'trial'" in reason and "'fault'" in reason and "zero" not in reason
  assert client.get("/api/state").status_code == 422  # No token.
  assert client.post("/start", data={}).status_code == 422


@pytest.mark.parametrize(
  ("headers", "status"),
  [
    ({}, 303),
    ({"Origin": "http://testserver"}, 303),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "http://testserver.evil.example"}, 403),
    ({"Origin": "null"}, 403),
    # Behind a proxy that changes the host, which no page can say it is.
    ({"Origin": "https://lab.org", "X-Forwarded-Host": "lab.org"}, 303),
    ({"Origin": "https://lab.org", "Sec-Fetch-Site": "same-origin"}, 303),
    ({"Origin": "http://testserver", "Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
  ],
)
def test_pages_of_other_sites_change_nothing(client, headers, status):
  form = {"language": "en", "consent": "yes"}
  answer = client.post("/start", data=form, headers=headers)
  assert answer.status_code == status
  assert len(client.store.raters()) == (status == 303)
  vote = client.post("/api/vote", json={}, headers=headers)
  assert vote.status_code == (403 if status == 403 else 422)
  assert client.get("/", headers=headers).status_code == 200


def start(app, address, **form):
  """The answers to 24 anonymous requests for a place, from one address."""
  form = {"language": "en", "consent": "yes"} | form
  with TestClient(app, follow_redirects=False, client=(address, 9)) as client:
    return [client.post("/start", data=form).status_code for _ in range(24)]


def test_one_address_takes_few_places_and_others_theirs(study, tmp_path):
  store = Store(tmp_path / "crowd.db")
  app = create_app(study, store, per_client=3)
  few = [303] * 3 + [429] * 21
  assert start(app, "192.0.2.1") == few
  assert start(app, "192.0.2.2") == few
  assert start(app, "2001:db8::1") == few
  # A household has 2^64 addresses of IPv6.
  assert start(app, "2001:db8::2") == [429] * 24
  assert start(app, "2001:db8:0:1::2") == few
  assert len(store.raters()) == 12
  store.close()


def test_after_an_hour_an_address_may_take_places_again():
  now = [0.0]
  limit = Limit(2, clock=lambda: now[0])
  for time_s, fits in ((0, 1), (1800, 1), (3500, 0), (3601, 1), (3602, 0)):
    now[0] = time_s
    if fits:
      limit.count("192.0.2.1")
    else:
      with pytest.raises(Refused) as refused:
        limit.count("192.0.2.1")
      assert refused.value.status == 429


def test_invitations_let_in_whom_they_name_once_and_nobody_else(study, client):
  tokens = Conduct(study, client.store).invite(5)
  assert "<form" not in client.get("/").text
  assert "by invitation" in client.get("/").text
  form = {"language": "en", "consent": "yes"}
  assert {client.post("/start", data=form).status_code for _ in range(24)} == {
    403
  }
  forged = form | {"invitation": "x" * 22}
  assert client.post("/start", data=forged).status_code == 403
  assert not client.store.raters()
  for token in tokens:
    page = client.get(f"/s/{token}?language=de")
    assert "freiwillig" in page.text and 'lang="de"' in page.text
    assert f'name="invitation" value="{token}"' in page.text
    assert f'href="s/{token}?language=zh"' in page.text
    silent = form | {"invitation": token, "consent": ""}
    assert client.post("/start", data=silent).status_code == 422
    for _ in range(2):  # A second click is no second rater.
      answer = client.post("/start", data=form | {"invitation": token})
      assert answer.headers["location"] == f"/s/{token}"
    assert "data-phase" in client.get(f"/s/{token}").text
  assert len(client.store.raters()) == 5
  assert len({rater.slot for rater in client.store.raters()}) == 5


def test_invited_links_are_printed_and_not_kept(tmp_path, study):
  copy = tmp_path / "study"
  shutil.copytree(study.path, copy)
  (copy / "answers.db").unlink(missing_ok=True)
  result = subprocess.run(
    [sys.executable, "main.py", "study", "invite", str(copy), "--count=3",
     "--address=https://lab.org/study/"],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  links = result.stdout.split()
  assert len(set(links)) == 3
  with contextlib.closing(Store(copy / "answers.db")) as store:
    conduct = Conduct(study, store)
    for link in links:
      address, _, token = link.rpartition("/")
      assert address == "https://lab.org/study/s" and conduct.awaits(token)
      assert token.encode() not in (copy / "answers.db").read_bytes()


@contextlib.contextmanager
def locked(path):
  """The database held by another program, as by a backup."""
  with contextlib.closing(
    sqlite3.connect(path, isolation_level=None, check_same_thread=False)
  ) as other:
    other.execute("BEGIN IMMEDIATE")
    yield other
    if other.in_transaction:
      other.execute("ROLLBACK")


def test_a_locked_database_gives_503_and_keeps_nothing(
  study, tmp_path, monkeypatch
):
  monkeypatch.setattr(ledger, "_PATIENCE", 0.2)
  store = Store(tmp_path / "locked.db")
  with TestClient(create_app(study, store), follow_redirects=False) as client:
    token = join(client)
    headers = {"X-Token": token}
    count = Conduct(study, store).number_of_tones(token)
    form = {"language": "en", "consent": "yes"}
    with locked(tmp_path / "locked.db"):
      for answer in (
        client.post("/api/tones", json={"count": count}, headers=headers),
        client.post("/start", data=form),
      ):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] and answer.json()["reason"]
      # Reading never waits.
      state = client.get("/api/state", headers=headers).json()
      assert (state["phase"], state["attempts"]) == ("tones", 3)
    answer = client.post("/api/tones", json={"count": count}, headers=headers)
    assert answer.json() == {"right": True}
  assert len(store.raters()) == 1 and len(store.events()) == 1
  store.close()


def test_a_short_lock_is_waited_for(study, tmp_path):
  store = Store(tmp_path / "locked.db")
  with TestClient(create_app(study, store), follow_redirects=False) as client:
    with locked(tmp_path / "locked.db") as other:
      free = threading.Timer(0.5, other.execute, ["ROLLBACK"])
      free.start()
      assert join(client)
      free.join()
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


def peak_memory(process):
  """The most that a process has had in memory so far, in bytes."""
  with open(f"/proc/{process.pid}/status") as file:
    (line,) = [line for line in file if line.startswith("VmHWM")]
  return 1024 * int(line.split()[1])


@pytest.mark.parametrize("stated", [True, False])
def test_a_body_of_a_hundred_megabytes_costs_no_memory(study, stated):
  port = free_port()
  process = serving(study.path, port)
  before = peak_memory(process)
  piece = b"x" * 1_000_000
  headers = {"Content-Length": "100000000"} if stated else {}
  try:
    answer = httpx.post(
      f"http://127.0.0.1:{port}/start", content=(piece for _ in range(100)),
      headers=headers, timeout=60,
    )  # fmt: skip
    assert answer.status_code == 413
    assert peak_memory(process) - before < 20e6
  finally:
    process.kill()
    process.wait()


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
