"""Pictures with all their captions, from records and from scenes."""

import json

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.data import captioned
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files

SIZE = image_files.ImagesConfig(8, 6, 'random', smallest=1, most_pixels=10**6)


def picture(number: int) -> np.ndarray:
  return np.full((8, 6, 3), 10 * number, np.uint8)


@pytest.fixture
def records(tmp_path):
  """Six pictures, with one caption, two, and so on; the last has none."""
  lines = []
  for number in range(6):
    (tmp_path / f'{number}.png').write_bytes(image_files.encode_png(picture(number)))
    said = [f'caption {k} of {number}' for k in range(number + 1)] * (number < 5)
    lines.append(json.dumps({'image': f'{number}.png', 'text': said}))
  (tmp_path / 'all.jsonl').write_text('\n'.join(lines))
  return str(tmp_path / 'all.jsonl')


def opened(mini, kind='json_lines', path='', **changes):
  source = tiny.source(kind, path, **changes)
  return captioned.CaptionedPictures(source, scenes=mini, pictures=SIZE)


def test_all_captions_of_a_record_stand_beside_its_picture(mini, records):
  found = opened(mini, path=records)
  assert len(found) == 6
  np.testing.assert_array_equal(found[2].picture, picture(2))
  assert found[2].captions == ('caption 0 of 2', 'caption 1 of 2', 'caption 2 of 2')
  assert found[0].captions == ('caption 0 of 0',)
  with pytest.raises(ValueError, match="all.jsonl:6: expected a picture.*'text'"):
    found[5]


def test_only_what_training_leaves_out(mini, records):
  found = opened(mini, path=records, heldout=0.5)
  assert [found[k].captions[0] for k in range(len(found))] == [
    'caption 0 of 0',
    'caption 0 of 2',
    'caption 0 of 4',
  ]


def test_scenes_are_those_of_the_test_split(mini):
  found = opened(mini, kind='emoji_scenes')
  scenes = emoji_scenes.EmojiScenes(mini, 'test')
  for index in range(6):
    wanted = scenes[index].pictures[0]
    np.testing.assert_array_equal(found[index].picture, wanted.pixels)
    assert found[index].captions == (wanted.caption,)


def test_a_choice_is_of_different_pictures_and_depends_on_the_seed(mini, records):
  found = opened(mini, path=records)
  assert sorted(found.choose(0, seed=0)) == list(range(6))
  assert len(set(found.choose(4, seed=0))) == 4
  assert found.choose(4, seed=0) == found.choose(4, seed=0)
  assert len({tuple(found.choose(4, seed=seed)) for seed in range(5)}) > 1
  with pytest.raises(ValueError, match='at least 7 pictures in .*, found 6'):
    found.choose(7, seed=0)


def test_all_of_endless_scenes_are_too_many(mini):
  scenes = opened(mini, kind='emoji_scenes')
  assert len(scenes.choose(5, seed=0)) == 5
  with pytest.raises(ValueError, match='which has no end'):
    scenes.choose(0, seed=0)


def test_what_is_not_captioned_is_refused(mini, records):
  with pytest.raises(ValueError, match="form 'captioned', found 'text'"):
    opened(mini, path=records, form='text')
  with pytest.raises(ValueError, match="expected the field 'words'"):
    opened(mini, path=records, text='words')


@pytest.fixture
def gappy(tmp_path):
  """Ten records, of which those with an even number lack picture or caption."""
  (tmp_path / 'a.png').write_bytes(image_files.encode_png(picture(1)))
  lines = []
  for number in range(10):
    record = {'image': 'a.png', 'text': f'caption {number}'}
    if number % 2 == 0:
      record[('image', 'text')[number // 2 % 2]] = ''
    lines.append(json.dumps(record))
  (tmp_path / 'all.jsonl').write_text('\n'.join(lines))
  return str(tmp_path / 'all.jsonl')


def test_others_stand_in_for_what_lacks_picture_or_caption(mini, gappy):
  found = opened(mini, path=gappy)
  found.check()
  for numbers in ([1, 3, 5], [0, 2, 4], [4, 3, 0, 9], [0]):
    made = dict(found.sound(numbers))
    assert len(made) == len(numbers)
    assert all(number % 2 for number in made)
    assert {n for n in numbers if n % 2} <= set(made)
    for number, each in made.items():
      assert each.captions == (f'caption {number}',)
  assert list(dict(found.sound([1, 9, 3]))) == [1, 9, 3]  # as they were asked for
  assert sorted(dict(found.sound(range(10)))) == [1, 3, 5, 7, 9]
  assert list(dict(found.sound([0, 2]))) == list(dict(found.sound([0, 2])))


def test_nothing_captioned_is_told_before_a_run(mini, gappy):
  found = opened(mini, path=gappy, heldout=0.5)  # those with even numbers
  with pytest.raises(
    ValueError, match='captioned pictures in .*none among 5, the last'
  ):
    found.check()
  with pytest.raises(
    ValueError, match='captioned pictures in .*none among 5, the last'
  ):
    list(found.sound([0, 1]))


def test_scenes_are_all_captioned(mini):
  scenes = opened(mini, kind='emoji_scenes')
  scenes.check()
  assert list(dict(scenes.sound([5, 2]))) == [5, 2]
