"""A headless Chromium for tests, driven over its debugging pipe."""

import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)

# The browser talks on file descriptors 3 (in) and 4 (out).
_LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def _pipe() -> tuple[int, int]:
  """A pipe whose ends do not collide with descriptors 3 and 4."""
  ends = os.pipe()
  high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends]
  for end in ends:
    os.close(end)
  return high[0], high[1]


class Browser:
  """One page. `errors` and `requests` collect what the page caused."""

  def __init__(self, profile: pathlib.Path):
    to_child, self._write = _pipe()
    self._read, from_child = _pipe()
    self._process = subprocess.Popen(
      [
        sys.executable, "-c", _LAUNCH, str(to_child), str(from_child),
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
        "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run",
        "--disable-background-networking", "--window-size=1300,900",
        f"--user-data-dir={profile}",
      ],
      pass_fds=(to_child, from_child),
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_child)
    os.close(from_child)
    self._buffer, self._number, self._session = b"", 0, None
    self.errors: list[str] = []
    self.requests: list[str] = []
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
    self._session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.kill()
    self._process.wait()
    os.close(self._read)
    os.close(self._write)

  def call(self, method: str, **params) -> dict:
    """Sends one command of the DevTools protocol, returns its result."""
    self._number += 1
    message = {"id": self._number, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._write, json.dumps(message).encode() + b"\0")
    while True:
      answer = self._receive()
      if answer.get("id") == self._number:
        if "error" in answer:
          raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

  def _receive(self, timeout: float = 60.0) -> dict:
    deadline = time.monotonic() + timeout
    while b"\0" not in self._buffer:
      rest = max(0.0, deadline - time.monotonic())
      if not select.select([self._read], [], [], rest)[0]:
        raise TimeoutError("the browser does not answer")
      chunk = os.read(self._read, 1 << 16)
      if not chunk:
        raise RuntimeError("the browser ended")
      self._buffer += chunk
    raw, self._buffer = self._buffer.split(b"\0", 1)
    message = json.loads(raw)
    self._note(message.get("method"), message.get("params", {}))
    return message

  def _note(self, method: str | None, params: dict) -> None:
    if method == "Runtime.exceptionThrown":
      self.errors.append(str(params["exceptionDetails"]))
    elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
      self.errors.append(str(params["args"]))
    elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
      self.errors.append(params["entry"]["text"])
    elif method == "Network.requestWillBeSent":
      self.requests.append(params["request"]["url"])

  def open(self, path: pathlib.Path) -> None:
    self.call("Page.navigate", url=path.resolve().as_uri())
    self.wait("document.readyState === 'complete'")

  def set_size(self, width: int, height: int) -> None:
    """The window's inner size in CSS pixels."""
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=False,
    )

  def screenshot(self, path: pathlib.Path) -> Image.Image:
    """What the window shows, as a file and as a picture."""
    answer = self.call("Page.captureScreenshot", format="png")
    path.write_bytes(base64.b64decode(answer["data"]))
    return Image.open(path)

  def evaluate(self, expression: str):
    """Value of a JavaScript expression (promises are awaited)."""
    answer = self.call(
      "Runtime.evaluate",
      expression=expression,
      returnByValue=True,
      awaitPromise=True,
      userGesture=True,
    )
    if "exceptionDetails" in answer:
      raise RuntimeError(str(answer["exceptionDetails"]))
    return answer["result"].get("value")

  def wait(self, condition: str, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not self.evaluate(condition):
      if time.monotonic() > deadline:
        raise AssertionError(f"never true: {condition}; {self.errors}")
      time.sleep(0.05)

  def press(self, key: str) -> None:
    """Presses and releases a key: "j", " ", "Tab" ..."""
    special = {
      " ": ("Space", 32, " "),
      "Tab": ("Tab", 9, ""),
      "Enter": ("Enter", 13, "\r"),
    }
    letter = (f"Key{key.upper()}", ord(key[0].upper()), key)
    code, number, text = special.get(key, letter)
    event = {"key": key, "code": code, "windowsVirtualKeyCode": number}
    if text:
      event["text"] = text
    self.call("Input.dispatchKeyEvent", type="keyDown", **event)
    self.call("Input.dispatchKeyEvent", type="keyUp", **event)
