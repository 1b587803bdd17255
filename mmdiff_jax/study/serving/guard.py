"""What a request must be before anything looks into it.

Bodies are small and whole, JSON is JSON, no other site sends them, and one
client takes few places.
"""

import hashlib
import ipaddress
import json
import secrets
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmdiff_jax.study.serving.conduct import Refused

# Votes have some 300 bytes.
_LARGEST = 64 * 1024
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_HOUR = 3600.0


class Guard:
  """Refuses requests that change something and are not as they should be."""

  def __init__(self, app: ASGIApp):
    self._app = app

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a request on with its whole body, or answers it with a refusal."""
    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
      await self._app(scope, receive, send)
      return
    headers = Headers(scope=scope)
    try:
      _check_origin(headers)
      body = await _read(headers, receive)
      kind = headers.get("content-type", "").partition(";")[0].strip().lower()
      if body and kind not in _FORMS:
        _check_json(body)
    except Refused as error:
      await refusal(error)(scope, receive, send)
      return
    whole: list[Message] = [{"type": "http.request", "body": body}]

    async def again() -> Message:
      return whole.pop() if whole else await receive()

    await self._app(scope, again, send)


def refusal(error: Refused) -> JSONResponse:
  """The answer to what is refused."""
  return JSONResponse({"reason": error.reason}, error.status)


def _check_origin(headers: Headers) -> None:
  """Refuses what a page of another site sends.

  Browsers say where a request comes from (Sec-Fetch-Site) where the address is
  secure, and of which site the page is (Origin) always; no page can set or
  change either, nor X-Forwarded-Host, which a proxy adds.
  """
  site, origin = headers.get("sec-fetch-site"), headers.get("origin")
  if site is not None:
    fits = site in ("same-origin", "none")
  elif origin is not None:
    hosts = headers.get("host", ""), headers.get("x-forwarded-host", "")
    fits = urlsplit(origin).netloc in filter(None, hosts)
  else:
    fits = True  # No browser.
  if not fits:
    raise Refused(403, "This was sent by a page of another site.")


async def _read(headers: Headers, receive: Receive) -> bytes:
  """A request's body; of a longer one no more than the limit is kept."""
  length = headers.get("content-length", "")
  if length.isdecimal() and int(length) > _LARGEST:
    raise Refused(413, f"A request has at most {_LARGEST} bytes.")
  body = b""
  while True:
    message = await receive()
    body += message.get("body", b"")
    if len(body) > _LARGEST:
      raise Refused(413, f"A request has at most {_LARGEST} bytes.")
    if not message.get("more_body"):
      return body


def _check_json(body: bytes) -> None:
  """Refuses what RFC 8259 does not know, or what no number or text can hold."""
  try:
    # NaN and lone surrogates are found by reading, 1e999 by writing.
    json.dumps(from_json(body, allow_inf_nan=False), allow_nan=False)
  except ValueError as error:
    raise Refused(400, "This is not JSON.") from error


class Limit:
  """How often each client may do something within an hour.

  Clients are known by digests that a random key makes useless elsewhere, and
  which are never written.
  """

  def __init__(
    self, most: int, clock: Callable[[], float] = time.monotonic
  ) -> None:
    self._most, self._clock = most, clock
    self._key, self._lock = secrets.token_bytes(16), threading.Lock()
    self._times: dict[bytes, list[float]] = {}

  def count(self, client: str) -> None:
    """Counts one more.

    Args:
      client: its address.

    Raises:
      Refused: 429 if it is one too many.
    """
    place = _network(client).encode()
    digest = hashlib.blake2b(place, key=self._key).digest()
    with self._lock:
      now = self._clock()
      self._times = {
        other: recent
        for other, times in self._times.items()
        if (recent := [then for then in times if now - then < _HOUR])
      }
      times = self._times.setdefault(digest, [])
      if len(times) >= self._most:
        raise Refused(
          429,
          "Too many people began from this address: try again in an hour, or "
          "ask for an invitation.",
        )
      times.append(now)


def _network(client: str) -> str:
  """Whom an address belongs to: of IPv6, a household has 2^64."""
  try:
    address = ipaddress.ip_address(client)
  except ValueError:
    return client
  if address.version == 6 and not address.ipv4_mapped:
    return str(ipaddress.ip_network((address, 64), strict=False))
  return str(address)
