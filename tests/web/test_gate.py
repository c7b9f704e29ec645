"""What the gate before the page lets through, without a page and without a server."""

import asyncio
import json
import os
import pathlib
import time

import pytest

from transfusion_jax.web import gate, uploads

HOSTS = ('localhost:7860', '127.0.0.1:7860')
HOST = (b'host', b'localhost:7860')


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  made = tmp_path / 'uploads'
  made.mkdir()
  (made / 'a.png').write_bytes(b'an image')
  (tmp_path / 'secret.png').write_bytes(b'a secret')
  return made


class Page:
  """Stands behind the gate, and notes what reaches it."""

  def __init__(self):
    self.bodies, self.kinds = [], []

  async def __call__(self, scope, receive, send):
    self.kinds.append(scope['type'])
    body, more = b'', True
    while more:
      message = await receive()
      body += message.get('body', b'')
      more = message.get('more_body', False)
    self.bodies.append(body if message['type'] == 'http.request' else None)
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'the page'})


def asked(
  folder: pathlib.Path,
  method: str,
  path: str,
  *parts: bytes,
  headers=(HOST,),
  silent: bool = False,
  **more,
):
  """Status and page; the body comes in parts, and its length is said truly."""
  page, sent = Page(), []
  messages = [
    {'type': 'http.request', 'body': part, 'more_body': number < len(parts) or silent}
    for number, part in enumerate(parts or (b'',), 1)
  ]
  size = sum(map(len, parts))
  length = [(b'content-length', str(size).encode())] if parts else []

  async def receive():
    if not messages and silent:
      await asyncio.sleep(30)
    return messages.pop(0) if messages else {'type': 'http.disconnect'}

  async def send(message):
    sent.append(message)

  stands = gate.Gate(page, folder=folder, **{'hosts': HOSTS, **more})
  scope = {'type': 'http', 'method': method, 'path': path}
  scope['headers'] = [*headers, *length]
  asyncio.run(stands(scope, receive, send))
  found = dict(sent[0]['headers'])
  assert found[b'x-content-type-options'] == b'nosniff'
  assert b'frame-ancestors' in found[b'content-security-policy']
  return sent[0]['status'], page


JOIN = '/gradio_api/queue/join'


@pytest.mark.parametrize(
  ('method', 'path'),
  [
    ('GET', '/'),
    ('HEAD', '/'),
    ('GET', '/config'),
    ('GET', '/theme.css'),
    ('GET', '/assets/Index-CsUOoOcz.js'),
    ('GET', '/static/fonts/SourceSansPro/SourceSansPro-Regular.woff2'),
    ('GET', '/gradio_api/startup-events'),
    ('GET', '/gradio_api/info'),
    ('GET', '/gradio_api/queue/data'),
    ('GET', '/gradio_api/heartbeat/ki3icoz166'),
    ('GET', '/gradio_api/upload_progress'),
    ('GET', '/gradio_api/call/draw/6fb4b2'),
    ('GET', '/gradio_api/file={folder}/a.png'),
    ('POST', JOIN),
    ('POST', '/gradio_api/call/draw'),
    ('POST', '/gradio_api/upload'),
    ('POST', '/gradio_api/cancel'),
  ],
)
def test_what_the_page_uses_passes(folder, method, path):
  body = [b'{"data": []}'] if method == 'POST' else []
  status, page = asked(folder, method, path.replace('{folder}', str(folder)), *body)
  assert status == 200
  assert page.bodies == [b''.join(body)]


@pytest.mark.parametrize(
  ('method', 'path'),
  [
    ('GET', '/gradio_api/file={folder}/../secret.png'),
    ('GET', '/gradio_api/file=/etc/passwd'),
    ('GET', '/gradio_api/file=http://169.254.169.254/latest'),
    ('GET', '/gradio_api/file=a.png'),
    ('GET', '/gradio_api/file/{folder}/a.png'),
    ('GET', '/gradio_api/proxy=http://127.0.0.1:22/'),
    ('GET', '/gradio_api/proxy=/etc/passwd'),
    ('GET', '/gradio_api/deep_link'),
    ('GET', '/gradio_api/openapi.json'),
    ('GET', '/gradio_api/custom_component/a/client/a/b.js'),
    ('GET', '/gradio_api/runs'),
    ('GET', '/gradio_api/vibe-code'),
    ('GET', '/gradio_api/profiling/traces'),
    ('GET', '/monitoring'),
    ('GET', '/monitoring/summary'),
    ('GET', '/docs'),
    ('GET', '/login_check'),
    ('GET', '/pwa_icon/10000'),
    ('GET', '/assets/../../secret.png'),
    ('GET', '/static/..'),
    ('GET', '//etc/passwd'),
    ('GET', '/config\n'),
    ('GET', '/gradio_api/stream/a/b/1/playlist.m3u8'),
    ('POST', '/'),
    ('POST', '/gradio_api/run/draw'),
    ('POST', '/gradio_api/api/draw'),
    ('POST', '/gradio_api/call/v2/draw'),
    ('POST', '/gradio_api/component_server'),
    ('POST', '/gradio_api/stream/abc'),
    ('POST', '/gradio_api/process_recording'),
    ('POST', '/gradio_api/vibe-edit'),
    ('POST', '/gradio_api/mcp'),
    ('POST', '/gradio_api/file={folder}/a.png'),
    ('POST', '/login'),
    ('PUT', JOIN),
    ('DELETE', '/gradio_api/file={folder}/a.png'),
    ('OPTIONS', JOIN),
    ('TRACE', '/'),
    ('CONNECT', '/'),
  ],
)
def test_nothing_else_passes(folder, method, path):
  status, page = asked(folder, method, path.replace('{folder}', str(folder)))
  assert status in (403, 404)
  assert not page.kinds


@pytest.mark.parametrize(
  'host',
  [
    b'evil.example',
    b'evil.example:7860',
    b'localhost',
    b'localhost:1',
    b'127.0.0.1.evil.example:7860',
    b'localhost:7860.evil.example',
    b'evil.example#localhost:7860',
    b'192.168.1.5:7860',
    b'',
    b'\xff',
    None,
  ],
)
def test_an_unknown_host_is_refused(folder, host):
  headers = [] if host is None else [(b'host', host)]
  for method, path in (('GET', '/'), ('POST', JOIN), ('OPTIONS', JOIN)):
    status, page = asked(folder, method, path, headers=headers)
    assert (status, page.kinds) == (421, [])


def test_a_known_host_may_be_written_in_any_case(folder):
  assert asked(folder, 'GET', '/', headers=[(b'Host', b'LocalHost:7860')])[0] == 200


def test_two_hosts_are_refused(folder):
  both = [HOST, (b'Host', b'evil.example')]
  assert asked(folder, 'GET', '/', headers=both)[0] == 400


@pytest.mark.parametrize(
  ('host', 'status'),
  [
    (b'192.168.1.5:7860', 200),
    (b'[fe80::1]:80', 200),
    (b'10.0.0.1', 200),
    (b'evil.example:7860', 421),
    (b'10.0.0.1.evil.example', 421),
    (b'127.1', 421),
    (b'0x7f000001', 421),
    (b'[::1]evil:80', 421),
  ],
)
def test_addresses_pass_where_the_page_is_for_all_of_them(folder, host, status):
  found, _ = asked(folder, 'GET', '/', headers=[(b'host', host)], addresses=True)
  assert found == status


@pytest.mark.parametrize(
  ('origin', 'status'),
  [
    (b'http://localhost:7860', 200),
    (b'https://localhost:7860', 200),
    (b'http://127.0.0.1:7860', 403),
    (b'http://localhost:8888', 403),
    (b'http://evil.example', 403),
    (b'null', 403),
    (b'file://', 403),
  ],
)
def test_another_site_may_not_ask(folder, origin, status):
  headers = [HOST, (b'origin', origin)]
  found, _ = asked(folder, 'POST', JOIN, b'{}', headers=headers)
  assert found == status


def test_bodies_are_bounded_before_they_are_read(folder):
  for path, most in ((JOIN, gate.MOST_JSON), ('/gradio_api/upload', gate.MOST_FORM)):
    length = (b'content-length', str(most + 1).encode())
    status, page = asked(folder, 'POST', path, headers=[HOST, length])
    assert (status, page.kinds) == (413, [])


@pytest.mark.parametrize(
  'header',
  [
    (b'transfer-encoding', b'chunked'),
    (b'content-length', b'-1'),
    (b'content-length', b'1e3'),
    (b'content-length', b'9' * 30),
  ],
)
@pytest.mark.parametrize('path', [JOIN, '/gradio_api/upload'])
def test_bodies_say_their_length(folder, header, path):
  assert asked(folder, 'POST', path, headers=[HOST, header])[0] == 411


def test_uploads_are_bounded_together(folder):
  with (folder / 'large').open('wb') as file:
    file.truncate(gate.MOST_KEPT)
  assert asked(folder, 'POST', '/gradio_api/upload', b'1')[0] == 507
  assert asked(folder, 'GET', '/')[0] == 200


class Held:
  """A page that writes what it is sent, and keeps each request until it is let go."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.begun, self.go_on = folder, 0, asyncio.Event()
    self.fails = False

  async def __call__(self, scope, receive, send):
    self.begun += 1
    await self.go_on.wait()
    if self.fails:
      raise ConnectionError('the browser has gone')
    message = await receive()
    (self.folder / f'{self.begun}-{time.monotonic_ns()}').write_bytes(message['body'])
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})


async def upload(stands: gate.Gate, size: int) -> int:
  """Sends so many bytes; the status, 0 if the page fails."""
  sent = []

  async def receive():
    return {'type': 'http.request', 'body': b'a' * size, 'more_body': False}

  async def send(message):
    sent.append(message)

  headers = [HOST, (b'content-length', str(size).encode())]
  scope = {'type': 'http', 'method': 'POST', 'path': UPLOAD, 'headers': headers}
  try:
    await stands(scope, receive, send)
  except ConnectionError:
    return 0
  return sent[0]['status']


UPLOAD = '/gradio_api/upload'


@pytest.mark.parametrize('fails', [False, True])
def test_uploads_under_way_are_counted(folder, monkeypatch, fails):
  monkeypatch.setattr(gate, 'MOST_KEPT', 10_000)

  async def act():
    page = Held(folder)
    page.fails = fails
    stands = gate.Gate(page, folder=folder, hosts=HOSTS)
    all_ = [asyncio.create_task(upload(stands, 3_000)) for _ in range(8)]
    done, held = set(), all_
    while len(done) + page.begun < len(all_):
      done, held = await asyncio.wait(all_, timeout=0.02)
    page.go_on.set()
    refused, kept = [task.result() for task in done], await asyncio.gather(*held)
    after = await upload(stands, 3_000)  # within the second
    monkeypatch.setattr(uploads, 'FRESH', 0.0)
    return refused, kept, after, await upload(stands, 3_000), page.begun

  refused, kept, after, later, begun = asyncio.run(act())
  assert refused == [507] * 5
  if fails:  # nothing was kept, as is seen at the next look
    assert (kept, after, later, begun) == ([0] * 3, 507, 0, 4)
  else:
    assert (kept, after, later, begun) == ([200] * 3, 507, 507, 3)
  assert uploads.size(folder) <= 10_000


def test_many_uploads_look_at_the_folder_once(folder, monkeypatch):
  looks, size = [], uploads.size
  monkeypatch.setattr(uploads, 'size', lambda at: looks.append(at) or size(at))
  monkeypatch.setattr(uploads, 'FRESH', 1e6)

  async def act():
    page = Held(folder)
    page.go_on.set()
    stands = gate.Gate(page, folder=folder, hosts=HOSTS)
    await asyncio.gather(*(upload(stands, 10) for _ in range(20)))
    return [await upload(stands, 10) for _ in range(20)]

  assert asyncio.run(act()) == [200] * 20
  assert len(looks) == 1


def test_what_broke_off_makes_room(folder):
  left = [folder / 'tmpold', folder / 'tmpnew', folder / 'abc' / 'whole']
  left[2].parent.mkdir()
  (folder / 'link').symlink_to(folder.parent / 'secret.png')
  for path in left:
    with path.open('wb') as file:
      file.truncate(gate.MOST_KEPT if path is left[0] else 1)
  os.mkfifo(folder / 'tmppipe')
  past = time.time() - uploads.ABANDONED
  os.utime(left[1], (past + 60, past + 60))
  assert asked(folder, 'POST', UPLOAD, b'1')[0] == 507
  for path in (left[0], left[2], folder.parent / 'secret.png', folder / 'tmppipe'):
    os.utime(path, (past - 1, past - 1))
  assert asked(folder, 'POST', UPLOAD, b'1')[0] == 200
  assert [path.exists() for path in left] == [False, True, True]
  assert (folder / 'link').exists()
  assert (folder / 'tmppipe').exists()


def test_a_folder_that_was_cleaned_away_is_empty(folder):
  (folder / 'a.png').unlink()
  folder.rmdir()
  assert asked(folder, 'POST', UPLOAD, b'1')[0] == 200


def test_who_is_slow_is_let_go(folder, monkeypatch):
  monkeypatch.setattr(gate, 'SECONDS', 0.05)
  status, page = asked(folder, 'POST', JOIN, b'{"data"', silent=True)
  assert (status, page.kinds) == (408, [])
  _, page = asked(folder, 'POST', '/gradio_api/upload', b'a part', silent=True)
  assert page.bodies == [None]


def test_a_body_in_parts_arrives_whole(folder):
  body = json.dumps({'data': ['a' * 10_000] * 3}).encode()
  status, page = asked(folder, 'POST', JOIN, body[:5], body[5:20_000], body[20_000:])
  assert (status, page.bodies) == (200, [body])


@pytest.mark.parametrize(
  'value',
  [
    {'data': [{'path': '/etc/passwd'}]},
    {'data': [{'path': '/etc/passwd', 'meta': {'_type': 'gradio.FileData'}}]},
    {'data': [{'background': None, 'layers': [{'path': '/dev/zero'}]}]},
    {'data': [], 'event_data': {'path': '~/a.png'}},
    {'data': [{'path': 'package:emoji/core.py'}]},
    {'data': [{'path': 'https://example.com/a.png', 'url': None}]},
    {'data': [{'path': ['a.png']}]},
    {'data': ['a' * 10_001]},
    {'data': [{'b' * 10_001: 1}]},
    {'data': ['\ud800']},
    {'data': [float('nan')]},
    {'data': [float('inf')]},
    {'data': [2**60]},
    {'data': [10**400]},
  ],
)
def test_bodies_that_no_page_sends_are_refused(folder, value):
  status, page = asked(folder, 'POST', JOIN, json.dumps(value).encode())
  assert (status, page.kinds) == (400, [])


@pytest.mark.parametrize(
  'body',
  [b'', b'data=1', b'{', b'\xff\xfe', b'[' * 5000, b'{"a":' * 900 + b'1' + b'}' * 900],
)
def test_bodies_that_are_no_json_are_refused(folder, body):
  status, page = asked(folder, 'POST', JOIN, body)
  assert (status, page.kinds) == (400, [])


def test_an_upload_may_be_named(folder):
  body = json.dumps({'data': [{'path': f'{folder}/a.png', 'url': 'http://x/y'}]})
  assert asked(folder, 'POST', JOIN, body.encode())[0] == 200


def test_web_sockets_are_closed_and_life_goes_on(folder):
  page, sent = Page(), []
  stands = gate.Gate(page, folder=folder, hosts=HOSTS)

  async def receive():
    return {'type': 'lifespan.startup'}

  async def send(message):
    sent.append(message['type'])

  asyncio.run(stands({'type': 'websocket', 'headers': [HOST]}, receive, send))
  assert (sent, page.kinds) == (['websocket.close'], [])
  asyncio.run(stands({'type': 'lifespan'}, receive, send))
  assert page.kinds == ['lifespan']
