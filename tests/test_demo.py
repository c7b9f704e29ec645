"""What the demo's page does with its fields, with a stand-in and with a tiny model."""

import dataclasses
import importlib.util
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.core import command
from transfusion_jax.data.images import image_files
from transfusion_jax.generation import requests
from transfusion_jax.web import backend, handlers, page

DRAWING = (7, 'euler', 5, 1.5)
"""Seed, solver, steps and guidance as the page has them."""


def said(words: str) -> requests.Piece:
  return requests.Piece(words, None)


def shown(seed: int) -> requests.Piece:
  return requests.Piece(None, tiny.picture(seed))


class Recorder:
  """Notes what is ordered, and gives what it was told to."""

  def __init__(self, *made: list[requests.Piece]):
    self.made, self.calls = list(made), []

  def __call__(self, order, sampling, temperature):
    self.calls.append((order, sampling, temperature))
    return self.made

  @property
  def order(self):
    return self.calls[0][0]


def pressed(*made: list[requests.Piece]) -> tuple[handlers.Handlers, Recorder]:
  recorder = Recorder(*made)
  return handlers.Handlers(recorder, tiny.image_sampling()), recorder


@pytest.fixture
def do() -> handlers.Handlers:
  """Handlers that a tiny model answers."""
  made = backend.Backend(tiny.writer(), tiny.LIMITS, seconds=600.0).make
  return handlers.Handlers(made, tiny.image_sampling())


@pytest.fixture
def file(tmp_path) -> str:
  path = tmp_path / 'picture.png'
  path.write_bytes(image_files.encode_png(tiny.picture(3)))
  return str(path)


def test_draw_orders_what_the_page_says():
  do, recorder = pressed([shown(1)], [shown(2)])
  made = do.draw('a b', 2, *DRAWING)
  np.testing.assert_array_equal(made, [tiny.picture(1), tiny.picture(2)])
  order, sampling, _ = recorder.calls[0]
  assert order == {'prompt': 'a b', 'count': 2, 'seed': 7}
  chosen = {'solver': 'euler', 'steps': 5, 'guidance': 1.5}
  assert sampling == dataclasses.replace(tiny.image_sampling(), **chosen)


@pytest.mark.parametrize(
  ('question', 'order'),
  [
    (' ', {'image': 'a.png'}),
    ('how many?', {'image': 'a.png', 'question': 'how many?'}),
  ],
)
def test_describe_asks_only_what_was_asked(question, order):
  do, recorder = pressed([said('two')])
  assert do.describe('a.png', question) == 'two'
  assert recorder.order == order
  assert recorder.calls[0][2] == 0


def test_no_words_are_told_from_no_answer():
  do, _ = pressed([])
  assert do.describe('a.png', '') == handlers.NOTHING


def test_inpaint_orders_the_painted_part():
  seen = {}

  def make(order, sampling, temperature):
    for name in ('image', 'mask'):
      seen[name] = image_files.read_picture(order[name], (4, 4))
    seen['order'] = order
    return [[shown(1)]]

  layer = np.zeros((4, 4, 4), np.uint8)
  layer[1:3, :2, 3] = 128
  clear = np.full((4, 4, 4), 255, np.uint8) * np.array([1, 1, 1, 0], np.uint8)
  opaque = np.full((4, 4, 1), 255, np.uint8)
  background = np.concatenate([tiny.picture(0), opaque], axis=-1)
  painted = {'background': background, 'layers': [layer, clear]}
  do = handlers.Handlers(make, tiny.image_sampling())
  (made,) = do.inpaint(painted, 'a', *DRAWING)
  np.testing.assert_array_equal(made, tiny.picture(1))
  np.testing.assert_array_equal(seen['image'], tiny.picture(0))
  expected = np.zeros((4, 4), np.uint8)
  expected[1:3, :2] = 255
  np.testing.assert_array_equal(seen['mask'], np.stack([expected] * 3, axis=-1))
  assert not pathlib.Path(seen['order']['mask']).exists()


def test_write_shows_texts_and_pictures_in_turn():
  do, recorder = pressed([said('a <b>'), shown(1), said('c')])
  found = do.write('<i>', 1, 0.5, 7)
  assert '&lt;i&gt;' in found
  assert '<b>' not in found.split('</b>', 1)[1]
  first, second = found.index('a &lt;b&gt;'), found.index('data:image/png;base64,')
  assert first < second < found.index('<p>c</p>')
  assert recorder.order == {'document': ['<i>'], 'pictures': 1, 'seed': 7}
  assert recorder.calls[0][1:] == (tiny.image_sampling(), 0.5)


def test_nothing_written_is_said():
  do, recorder = pressed([])
  assert handlers.NOTHING in do.write('', 1, 0.5, *DRAWING)
  assert recorder.order['document'] == []


def test_a_model_does_what_is_ordered(do):
  drawing = (0, 'ddim', 2, 1.0)
  first, second = do.draw('a b', 2, *drawing)
  assert first.shape == (tiny.SIDE, tiny.SIDE, 3)
  assert (first != second).any()
  again, _ = do.draw('a b', 2, 1, *drawing[1:])
  np.testing.assert_array_equal(again, second)


PAINTED = {
  'background': tiny.picture(3),
  'layers': [np.full((tiny.SIDE, tiny.SIDE, 4), 255, np.uint8)],
}


@pytest.mark.parametrize(
  ('kind', 'press'),
  [
    ('draw', lambda do, file: do.draw('', 1, *DRAWING)),
    ('caption', lambda do, file: do.describe(file, '')),
    ('answer', lambda do, file: do.describe(file, 'a')),
    ('edit', lambda do, file: do.edit(file, 'a', *DRAWING)),
    ('inpaint', lambda do, file: do.inpaint(PAINTED, 'a', *DRAWING)),
    ('vary', lambda do, file: do.vary(file, 1.0, '', 1, *DRAWING)),
    ('interleave', lambda do, file: do.write('a', 1, 1.0, *DRAWING)),
  ],
)
def test_every_button_makes_a_task(file, kind, press):
  def make(order, sampling, temperature):
    folder = pathlib.Path()
    (task,) = tiny.LIMITS.tasks(order, folder, seed=0, pictures=0, steps=sampling.steps)
    assert task.kind == kind
    return [[said('a') if kind in ('caption', 'answer') else shown(1)]]

  assert press(handlers.Handlers(make, tiny.image_sampling()), file)


@pytest.mark.parametrize(
  ('button', 'fields', 'message'),
  [
    ('draw', ('a zeppelin', 1), "expected words of the vocabulary.*'zeppelin'"),
    ('draw', ('a ' * 50, 1), 'expected a prompt that leaves room in 40 positions'),
    ('draw', ('a', 0), 'expected count from 1'),
    ('describe', (None, ''), 'expected a picture, found none'),
    ('describe', ('none.png', ''), 'none.png'),
    ('edit', (None, 'a'), 'expected a picture, found none'),
    ('inpaint', (None, 'a'), 'expected a picture, found none'),
    ('inpaint', ({'background': None, 'layers': []}, ''), 'expected a picture'),
    ('inpaint', ({'background': tiny.picture(0), 'layers': []}, ''), 'expected paint'),
    ('vary', (None, 0.5, '', 1), 'expected a picture, found none'),
    ('write', ('zeppelin', 1, 1.0), "'zeppelin'"),
    ('write', ('a', 1, -1.0), 'expected temperature from 0'),
  ],
)
def test_mistakes_are_one_line(do, button, fields, message):
  drawing = () if button == 'describe' else (0, 'ddim', 2, 1.0)
  with pytest.raises(command.Exit, match=message) as raised:
    getattr(do, button)(*fields, *drawing)
  assert raised.value.code == 2
  assert '\n' not in raised.value.message


GOOD = {
  'draw': ('a', 1),
  'edit': ('FILE', 'a'),
  'vary': ('FILE', 0.5, 'a', 1),
  'write': ('a', 1, 1.0),
}


@pytest.mark.parametrize(
  ('button', 'place', 'name', 'values'),
  [
    ('draw', 0, 'prompt', [None, 3, ['a'], {'path': 'a'}, 'a ' * 10**4]),
    ('draw', 1, 'count', [None, '4', True, 0, 17, 10**9, -1, 2.5, float('nan'), [1]]),
    ('edit', 1, 'instruction', [None, 3, 'a' * 10_001]),
    ('vary', 1, 'strength', [None, '1', 0, 1.1, float('nan'), float('inf'), True]),
    ('vary', 2, 'prompt', [None, {}]),
    ('vary', 3, 'count', [17, 1e300]),
    ('write', 0, 'beginning', [None, ['a'], 'a' * 10_001]),
    ('write', 1, 'pictures', [-1, 5, 10**6, None, 'many']),
    ('write', 2, 'temperature', [-1.0, 2.1, float('nan'), None, '1']),
  ],
)
def test_fields_are_bounded_whatever_a_browser_says(button, place, name, values, file):
  do, recorder = pressed([shown(1)])
  fields = [file if each == 'FILE' else each for each in GOOD[button]]
  getattr(do, button)(*fields, *DRAWING)
  for value in values:
    wrong = [*fields[:place], value, *fields[place + 1 :]]
    with pytest.raises(command.Exit, match=f'expected .*{name}') as raised:
      getattr(do, button)(*wrong, *DRAWING)
    assert raised.value.code == 2
    assert len(raised.value.message) < 200
  assert len(recorder.calls) == 1


@pytest.mark.parametrize(
  ('place', 'name', 'values'),
  [
    (0, 'seed', [None, -1, 2**32, 1e30, 'a', float('nan'), True]),
    (1, 'solver', [None, 'magic', 3, ['ddim'], '../ddim']),
    (2, 'steps', [None, 0, -1, 2**21, 2.5, '5', float('inf')]),
    (3, 'guidance', [None, 0, 11, -3.0, float('nan'), float('inf'), '2', [2]]),
  ],
)
def test_ways_of_drawing_are_bounded(place, name, values):
  do, recorder = pressed([shown(1)])
  for value in values:
    wrong = [*DRAWING[:place], value, *DRAWING[place + 1 :]]
    with pytest.raises(command.Exit, match=f'expected .*{name}'):
      do.draw('a', 1, *wrong)
  assert not recorder.calls


def test_numbers_may_come_as_a_browser_writes_them():
  do, recorder = pressed([shown(1)])
  do.draw('a', 2.0, 7.0, 'ddim', 5.0, 2)
  order, sampling, _ = recorder.calls[0]
  assert (order['count'], order['seed'], sampling.steps) == (2, 7, 5)
  assert type(order['count']) is type(order['seed']) is type(sampling.steps) is int
  assert type(sampling.guidance) is float


def test_paint_of_another_size_is_a_mistake(do):
  layers = [np.full((tiny.SIDE, tiny.SIDE + 1, 4), 255, np.uint8)]
  with pytest.raises(command.Exit, match='expected paint as large as the picture'):
    do.inpaint({**PAINTED, 'layers': layers}, 'a', 0, 'ddim', 2, 1.0)


class Slow:
  """A model's limits that take their time, until they are told to go on."""

  def __init__(self):
    self.go_on, self.begun = threading.Event(), 0

  def tasks(self, *rest, **more):
    self.begun += 1
    self.go_on.wait(30)
    raise ValueError('expected this, found it; good')


def waited_for(slow: Slow, seconds: float) -> backend.Backend:
  """A backend without a model."""
  made = backend.Backend.__new__(backend.Backend)
  fields = {'model': None, 'limits': slow, 'seconds': seconds}
  made.__dict__.update(fields, _busy=threading.Lock())
  return made


def test_a_request_ends_in_time_and_the_next_one_waits_for_it():
  slow = Slow()
  made = waited_for(slow, 0.05)
  for found in ('found it at work', 'found the one before it at work'):
    with pytest.raises(command.Exit, match=f'an answer within 0.05 seconds, {found}'):
      made.make({}, tiny.image_sampling(), 0.0)
  assert slow.begun == 1
  made.__dict__['seconds'] = 30.0
  slow.go_on.set()
  with pytest.raises(command.Exit, match='expected this'):
    made.make({}, tiny.image_sampling(), 0.0)


def test_a_request_that_cannot_begin_leaves_room_for_the_next(monkeypatch):
  slow = Slow()
  slow.go_on.set()
  made = waited_for(slow, 5.0)

  def refuse(thread):
    raise RuntimeError("can't start new thread")

  with monkeypatch.context() as patch:
    patch.setattr(threading.Thread, 'start', refuse)
    with pytest.raises(command.Exit, match="found none .can't start new thread"):
      made.make({}, tiny.image_sampling(), 0.0)
  with pytest.raises(command.Exit, match='expected this'):
    made.make({}, tiny.image_sampling(), 0.0)


@pytest.mark.parametrize(('seed', 'steps'), [(None, 2), (0, 0), (0, 501)])
def test_bad_settings_are_one_line(do, file, seed, steps):
  with pytest.raises(command.Exit, match='expected'):
    do.vary(file, 0.5, '', 1, seed, 'ddim', steps, 1.0)


def test_an_edit_without_words_is_a_mistake(do, file):
  with pytest.raises(command.Exit, match='expected words in the question or instr'):
    do.edit(file, ' ', 0, 'ddim', 2, 1.0)


def test_a_broken_picture_is_a_mistake(do, tmp_path):
  (tmp_path / 'bad.png').write_bytes(b'none')
  with pytest.raises(command.Exit, match='expected a readable picture'):
    do.describe(str(tmp_path / 'bad.png'), '')


def test_a_defect_keeps_its_traceback():
  def make(order, sampling, temperature):
    raise ValueError('a defect')

  with pytest.raises(ValueError, match='a defect'):
    handlers.Handlers(make, tiny.image_sampling()).draw('a', 1, *DRAWING)


def test_a_missing_package_names_what_installs_it(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  with pytest.raises(ImportError, match=r"pip install 'transfusion-jax\[demo\]'"):
    page.gradio(tmp_path)


def test_a_taken_port_is_found_before_anything_is_loaded():
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(ValueError, match=f'expected a free port, found .*:{port}'):
      page.check_free('127.0.0.1', port)
  page.check_free('127.0.0.1', port)


def test_names_that_a_browser_may_call_the_page_by():
  own = {'localhost:7860', '127.0.0.1:7860', '[::1]:7860'}
  assert page.hosts('127.0.0.1', 7860) == own
  assert page.hosts('::1', 7860) == own
  assert page.hosts('box.lan', 7860) == {*own, 'box.lan:7860'}
  names = ['box.lan', 'localhost:8000', '[fe80::1]']
  added = {'box.lan:7860', 'localhost:8000', '[fe80::1]:7860'}
  assert page.hosts('127.0.0.1', 7860, names) == own | added
  assert {'localhost', 'localhost:80', '[::1]'} <= page.hosts('127.0.0.1', 80)


def test_a_host_that_is_none_is_one_line():
  for host in ('no.such.host.invalid', '256.1.1.1', 'a' * 70, '\udcff'):
    with pytest.raises(ValueError, match='change --port or --host'):
      page.check_free(host, 7860)


def describe_pages() -> None:
  """Prints what pages can do, with pictures and without, in a process of its own."""
  for draws in (True, False):
    with tempfile.TemporaryDirectory() as folder:
      about = {'title': 'run', 'levels': 1000, 'draws': draws}
      sampling = tiny.image_sampling()
      built = page.build(Recorder(), sampling, pathlib.Path(folder), **about)
    events = {each.api_name: each for each in built.fns.values()}
    queues = {(each.concurrency_id, each.concurrency_limit) for each in events.values()}
    print(json.dumps([sorted(events), sorted(queues), built.analytics_enabled]))


def test_a_page_has_what_its_model_can_do(environment):
  """Elsewhere, since Gradio leaves an event loop open, which is an error here."""
  if importlib.util.find_spec('gradio') is None:
    pytest.skip('there is no Gradio')
  done = subprocess.run(
    [sys.executable, '-c', 'from tests import test_demo; test_demo.describe_pages()'],
    env=environment(PYTHONPATH=str(pathlib.Path(__file__).parents[1])),
    capture_output=True,
    text=True,
    check=True,
  )
  drawing, writing = map(json.loads, done.stdout.splitlines())
  all_of_them = ['describe', 'draw', 'edit', 'inpaint', 'vary', 'write']
  assert drawing == [all_of_them, [['model', 1]], False]
  assert writing == [['write'], [['model', 1]], False]
