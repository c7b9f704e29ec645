"""Gate before the page: hosts, routes and sizes of the requests that it lets through.

Gradio serves more than a page needs (files, a proxy, links, statistics), and reads
files by names that browsers send. Nothing reaches it here but the routes that its page
uses, for a host that is named, from no other site, with bodies of a bounded size whose
files were uploaded. Knows ASGI alone, and neither Gradio nor a web framework.
"""

import asyncio
import ipaddress
import pathlib
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from transfusion_jax.core import command, json_text
from transfusion_jax.web import uploads

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

SECONDS = 60.0
"""In which a body has to arrive."""

MOST_JSON = 2**20
"""Bytes of a body in JSON."""

MOST_FORM = uploads.MOST_BYTES + 2**20
"""Bytes of a form with a file."""

MOST_KEPT = 2**30
"""Bytes of uploads that are kept at a time, those under way included.

They go after a day, or with the page; those that broke off, as `uploads.sweep` says.
"""

CHARACTERS = 10_000
"""Characters of the longest text in a body."""

_READS = re.compile(
  r'/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?'
  r'|/(assets|static|svelte)/[\w./@+-]+'
  r'|/gradio_api/(info|startup-events|app_id|theme\.css|queue/data|upload_progress)/?'
  r'|/gradio_api/heartbeat/\w+'
  r'|/gradio_api/call/\w+/\w+'
)
_FILE = re.compile(r'/gradio_api/file=(/.*)', re.DOTALL)
_ASKS = re.compile(r'/gradio_api/(queue/join|cancel|reset|call/\w+)/?')
_UPLOAD = '/gradio_api/upload'

_HEADERS = (
  (b'x-content-type-options', b'nosniff'),
  (b'content-security-policy', b"frame-ancestors 'self'"),
)


class Refused(ValueError):
  """A request that the page never sees.

  Attributes:
    status: of HTTP.
  """

  def __init__(self, status: int, message: str):
    super().__init__(message)
    self.status = status


class Gate:
  """An application that hands on to another what may reach it."""

  def __init__(
    self,
    app: Application,
    *,
    folder: pathlib.Path,
    hosts: Collection[str],
    addresses: bool = False,
  ):
    """Stands before `app`.

    Args:
      app: the page.
      folder: that uploads lie in, and nothing else.
      hosts: what `Host` may say, ports included. Another name would be that of a site
        that has its name point here, to read the page as its own (DNS rebinding).
      addresses: whether `Host` may be any address in numbers, which no site can fake.
    """
    self._app, self._folder = app, folder
    self._room = uploads.Room(folder, MOST_KEPT)
    self._hosts, self._addresses = frozenset(map(str.lower, hosts)), addresses

  async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
    """Answers a request, itself or by the page."""
    if scope['type'] == 'lifespan':
      await self._app(scope, receive, send)
      return
    if scope['type'] != 'http':  # web sockets, which the page does not use
      await send({'type': 'websocket.close', 'code': 1008})
      return
    try:
      receive = await self._admitted(scope, receive)
      taken = await self._taken(scope)
    except Refused as refusal:
      await _answer(send, refusal)
      return
    try:
      await self._app(scope, receive, _with_headers(send))
    finally:
      self._room.leave(taken)

  async def _admitted(self, scope: Message, receive: Receive) -> Receive:
    """Admits a request: the source of its body; Refused if it may not pass."""
    headers = _Headers(scope['headers'])
    self._check_host(headers)
    path, method = scope['path'], scope['method']
    size = headers.size()
    if method in ('GET', 'HEAD'):
      self._check_read(path)
      return _until(receive, size)
    if method != 'POST' or not (_ASKS.fullmatch(path) or path == _UPLOAD):
      raise Refused(404, 'expected a route of the page, found another; open /')
    most = MOST_FORM if path == _UPLOAD else MOST_JSON
    if size > most:
      raise Refused(
        413, f'expected a body of at most {most} bytes, found {size}; send less'
      )
    if path == _UPLOAD:
      return _until(receive, size)
    body = await _read(_until(receive, size))
    self._check_body(body)
    return _replay(body, receive)

  def _check_host(self, headers: '_Headers') -> None:
    host = headers.one('host').lower()
    if host not in self._hosts and not (self._addresses and _is_address(host)):
      raise Refused(
        421,
        f'expected a Host among {", ".join(sorted(self._hosts))}, found another; open '
        'one of these, or start the demo with --allow_host=NAME',
      )
    origin = headers.one('origin')
    if origin and origin.lower() not in (f'http://{host}', f'https://{host}'):
      raise Refused(403, 'expected a request of this page, found one of another site')

  def _check_read(self, path: str) -> None:
    if file := _FILE.fullmatch(path):
      try:
        uploads.check(file[1], self._folder)
      except ValueError as error:
        raise Refused(403, str(error)) from error
    elif not _READS.fullmatch(path) or '..' in path:
      raise Refused(404, 'expected a route of the page, found another; open /')

  async def _taken(self, scope: Message) -> int:
    """Bytes that are taken of the room for uploads; Refused if there are too few."""
    upload = scope['method'] == 'POST' and scope['path'] == _UPLOAD
    size = _Headers(scope['headers']).size() if upload else 0
    if size and not await self._room.take(size):
      raise Refused(
        507, f'expected at most {MOST_KEPT} bytes of uploads, found more; try later'
      )
    return size

  def _check_body(self, body: bytes) -> None:
    try:
      value = json_text.parse(body)
      _check_values(value)
      uploads.check_all(value, self._folder)
    except ValueError as error:
      raise Refused(400, command.line(error)) from error


class _Headers:
  """The headers of a request by their names in small letters."""

  def __init__(self, pairs: Collection[tuple[bytes, bytes]]):
    self._pairs = [(name.lower(), value) for name, value in pairs]

  def one(self, name: str) -> str:
    """Value of a header, empty if absent; Refused if there are several."""
    found = [value for key, value in self._pairs if key == name.encode()]
    if len(found) > 1:
      raise Refused(400, f'expected one header {name}, found several; send one')
    return found[0].decode('latin-1') if found else ''

  def size(self) -> int:
    """Bytes of the body; Refused if the request does not say how many."""
    length = self.one('content-length') or '0'
    if self.one('transfer-encoding') or not re.fullmatch('[0-9]{1,18}', length):
      raise Refused(411, 'expected a body of a known length, found none; say it')
    return int(length)


def _is_address(host: str) -> bool:
  """True if a host is a numeric address, with a port or without."""
  named = re.fullmatch(r'(?:\[([0-9a-f:.]+)\]|([0-9.]+))(?::[0-9]+)?', host)
  try:
    return bool(named and ipaddress.ip_address(named[1] or named[2]))
  except ValueError:
    return False


def _check_values(value: Any) -> None:
  """Raises ValueError for texts and numbers that no field of the page can hold."""
  if isinstance(value, str):
    if len(value) > CHARACTERS:
      raise ValueError(
        f'expected texts of at most {CHARACTERS} characters, found {len(value)}; '
        'shorten it'
      )
    try:
      value.encode()
    except UnicodeEncodeError as error:
      raise ValueError(
        f'expected text in Unicode, found half a character at {error.start}; write it '
        'again'
      ) from error
  elif isinstance(value, int | float):
    if not abs(value) <= 2**53:  # NaN is not
      raise ValueError('expected numbers up to 2**53, found another; change it')
  elif isinstance(value, dict):
    _check_values([*value, *value.values()])
  elif isinstance(value, list):
    for each in value:
      _check_values(each)


def _until(receive: Receive, size: int) -> Receive:
  """Receives a body of that size in time; who is slow counts as gone."""
  loop = asyncio.get_running_loop()
  end, over = loop.time() + SECONDS, size == 0

  async def timely() -> Message:
    nonlocal over
    if over:
      return await receive()
    try:
      message = await asyncio.wait_for(receive(), max(0.0, end - loop.time()))
    except TimeoutError:
      return {'type': 'http.disconnect'}
    over = not message.get('more_body', False)
    return message

  return timely


async def _read(receive: Receive) -> bytes:
  """The whole body; Refused if it does not come."""
  parts, more = [], True
  while more:
    message = await receive()
    if message['type'] != 'http.request':
      raise Refused(408, f'expected a body within {SECONDS:.0f} s, found none')
    parts.append(message.get('body', b''))
    more = message.get('more_body', False)
  return b''.join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
  """Receives a body that was read, and then what comes after it."""
  given = False

  async def again() -> Message:
    nonlocal given
    if given:
      return await receive()
    given = True
    return {'type': 'http.request', 'body': body, 'more_body': False}

  return again


def _with_headers(send: Send) -> Send:
  async def sent(message: Message) -> None:
    if message['type'] == 'http.response.start':
      message = {**message, 'headers': [*message.get('headers', ()), *_HEADERS]}
    await send(message)

  return sent


async def _answer(send: Send, refusal: Refused) -> None:
  body = f'{refusal}\n'.encode()
  headers = [
    (b'content-type', b'text/plain; charset=utf-8'),
    (b'content-length', str(len(body)).encode()),
    (b'connection', b'close'),  # what is left of the request is not read
    *_HEADERS,
  ]
  start = {'type': 'http.response.start', 'status': refusal.status, 'headers': headers}
  await send(start)
  await send({'type': 'http.response.body', 'body': body})
