"""Documents to measure on: what is looked for before a run, and what is left out."""

import json

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.data import held_out
from transfusion_jax.data.images import image_files

SIZE = image_files.ImagesConfig(8, 6, 'random', smallest=1, most_pixels=10**6)


@pytest.fixture
def opened(mini, tmp_path):
  """Opens records, of which 'picture' stands for a picture file and 'none' for none."""
  data = image_files.encode_png(np.zeros((8, 6, 3), np.uint8))
  (tmp_path / 'picture').write_bytes(data)

  def make(records, count=0, **changes):
    lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
    (tmp_path / 'all.jsonl').write_text('\n'.join(lines))
    source = tiny.source('json_lines', str(tmp_path / 'all.jsonl'), **changes)
    return held_out.HeldOut(source, scenes=mini, pictures=SIZE, count=count)

  return make


BOTH = {'image': 'picture', 'text': 'a fox'}
TEXT = {'image': '', 'text': 'a fox'}
IMAGE = {'image': 'picture', 'text': ''}
BROKEN = '{"text": '


@pytest.mark.parametrize('wanted', [{}, {'text': True}, {'images': True}])
def test_something_to_measure_on_is_found_behind_what_is_not(opened, wanted):
  found = opened([*[BROKEN, TEXT] * 20, *[IMAGE] * 20, BOTH], caption_drop=0.0)
  found.require(**wanted)


@pytest.mark.parametrize(
  ('record', 'wanted', 'missing'),
  [
    (TEXT, {'images': True}, 'image'),
    (IMAGE, {'text': True}, 'text'),
    (IMAGE, {'text': True, 'images': True}, 'text and image'),
  ],
)
def test_what_is_missing_is_said_before_a_run(opened, record, wanted, missing):
  found = opened([BOTH, *[record] * 20], heldout=0.0, caption_drop=0.0)
  found.require(**wanted)
  found = opened([record, BOTH] * 5, heldout=0.5, caption_drop=0.0)
  message = f'documents with {missing} that is learnt in .*jsonl, found none among 5; '
  with pytest.raises(ValueError, match=message):
    found.require(**wanted)


def test_broken_ones_alone_are_told_before_a_run(opened):
  found = opened([BROKEN, BOTH] * 5, heldout=0.5)
  with pytest.raises(ValueError, match=r'found none of 5 sound, the last: .*jsonl:9: '):
    found.require()


def test_what_is_context_alone_is_not_measured(opened):
  asked = {'image': 'picture', 'text': 'what?', 'answer': 'a fox'}
  found = opened([asked] * 3, form='question')
  found.require(text=True)
  with pytest.raises(ValueError, match='documents with image that is learnt'):
    found.require(images=True)


def test_many_documents_are_not_gone_through(opened):
  found = opened([*[TEXT] * (held_out.LOOKED + 5), BOTH])
  with pytest.raises(ValueError, match=f'found none among {held_out.LOOKED}'):
    found.require(images=True)


def test_scenes_have_both(mini):
  source = tiny.source('emoji_scenes')
  found = held_out.HeldOut(source, scenes=mini, pictures=SIZE, count=10)
  found.require(text=True, images=True)
