"""The demo's page in a browser: needs Gradio, Playwright and a Chromium."""

import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.core import command
from transfusion_jax.generation import requests
from transfusion_jax.web import page

ROOT = pathlib.Path(__file__).parents[2]
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
PICTURE = '.grid-container img'


def make(order, sampling, temperature):
  """Grey pictures of 8 x 8; refuses zeppelins, and falls over bugs."""
  words = order['prompt']
  if 'bug' in words:
    raise RuntimeError('a defect')
  with command.user_errors():
    if 'zeppelin' in words:
      raise ValueError("expected words that are known, found '<zeppelin>'; use others")
  grey = np.full((8, 8, 3), 128, np.uint8)
  return [[requests.Piece(None, grey)]] * order['count']


@pytest.fixture(scope='module')
def address():
  pytest.importorskip('gradio')
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  program = f'from tests.web import test_browser; test_browser.serve({port})'
  server = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT)
  yield f'http://127.0.0.1:{port}/'
  server.terminate()
  server.wait(timeout=30)


def serve(port: int) -> None:
  """The server, in a process of its own."""
  sampling = tiny.image_sampling()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name).resolve()
    built = page.build(make, sampling, folder, title='a run', levels=1000, draws=True)
    page.serve(built, folder, '127.0.0.1', port)


@pytest.fixture(params=[1200, 390])
def tab(request, address):
  """The page at a desktop's and a phone's width; nothing may come from elsewhere."""
  playwright = pytest.importorskip('playwright.sync_api')
  if CHROMIUM is None:
    pytest.skip('there is no Chromium')
  elsewhere = []

  def noted(sent):
    if not sent.url.startswith((address, 'data:', 'blob:')):
      elsewhere.append(sent.url)

  with playwright.sync_playwright() as started:
    browser = started.chromium.launch(
      executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu']
    )
    tab = browser.new_page(viewport={'width': request.param, 'height': 844})
    tab.on('request', noted)
    for _ in range(120):  # until the server listens
      try:
        tab.goto(address)
        break
      except playwright.Error:
        tab.wait_for_timeout(500)
    yield tab
    assert tab.evaluate('document.documentElement.scrollWidth <= innerWidth')
    browser.close()
  assert not elsewhere


def draw(tab, prompt: str) -> None:
  tab.get_by_label('Prompt').first.fill(prompt)
  tab.get_by_role('button', name='Draw', exact=True).click()


def test_a_prompt_becomes_pictures(tab):
  draw(tab, 'a panda')
  tab.locator(PICTURE).first.wait_for()
  assert tab.locator(PICTURE).count() == 4


def test_a_mistake_is_one_line_and_the_page_lives_on(tab):
  draw(tab, 'a zeppelin')
  toast = tab.get_by_test_id('toast-body')
  toast.wait_for()
  line = "expected words that are known, found '<zeppelin>'; use others"
  assert line in toast.inner_text()
  draw(tab, 'a panda')
  tab.locator(PICTURE).first.wait_for()


def test_a_defect_shows_no_traceback(tab):
  draw(tab, 'a bug')
  toast = tab.get_by_test_id('toast-body')
  toast.wait_for()
  assert 'a defect' in toast.inner_text()
  assert 'Traceback' not in toast.inner_text()
