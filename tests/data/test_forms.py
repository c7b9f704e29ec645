"""From records to documents: every kind, random choices, and refusals."""

import collections
import dataclasses
import re

import numpy as np
import pytest

from tests.support import tiny
from transfusion_jax.data import documents, forms
from transfusion_jax.data.images import image_files

PIXELS = np.full((24, 40, 3), 200, np.uint8)
PICTURE = image_files.encode_png(PIXELS)
SIZE = image_files.ImagesConfig(8, 16, 'random', smallest=1, most_pixels=10**6)
CENTRE = dataclasses.replace(SIZE, crop='center')


def make(kind, record, seed=0, pictures=SIZE, **changes):
  section = dataclasses.replace(tiny.source('folder', 'x').form, kind=kind, **changes)
  form = forms.Form(section, pictures)
  return form.document(record, np.random.default_rng(seed))


def told(document):
  """A document in short: texts, and of pictures (learn, noise_cap)."""
  return [
    each.text if isinstance(each, documents.Text) else (each.learn, each.noise_cap)
    for each in document
  ]


def learnt(document):
  return [each.learn for each in document]


def test_captions_come_first_or_not_or_not_at_all():
  record, found = {'image': PICTURE, 'text': 'a fox'}, collections.Counter()
  for seed in range(2000):
    document = told(make('captioned', record, seed))
    found[repr(document)] += 1
  shares = {key: count / 2000 for key, count in found.items()}
  assert shares == pytest.approx(
    {
      "['a fox', (True, 1.0)]": 0.72,
      '[(True, 1.0)]': 0.08,
      "[(True, 0.5), 'a fox']": 0.2,
    },
    abs=0.03,
  )


def test_either_alone_is_a_document_too():
  for seed in range(50):
    assert told(make('captioned', {'text': 'a fox'}, seed)) == ['a fox']
    for text in ('', '  \n', None):
      document = make('captioned', {'image': PICTURE, 'text': text}, seed)
      assert told(document) == [(True, 1.0)]


def test_of_several_captions_one_is_drawn():
  record = {'image': PICTURE, 'text': ['one', 'two', 'three']}
  found = {told(make('captioned', record, seed, caption_drop=0.0))[0] for seed in
           range(40)}  # fmt: skip
  assert found - {(True, 0.5)} == {'one', 'two', 'three'}


def test_pictures_are_brought_to_their_size_at_a_place_drawn():
  wide = np.zeros((8, 64, 3), np.uint8)
  wide[:, :, 0] = np.arange(64)[None]
  record = {'image': image_files.encode_png(wide)}
  crops = [make('picture', record, seed)[0].pixels for seed in range(20)]
  assert {crop.shape for crop in crops} == {(8, 16, 3)}
  assert len({int(crop[0, 0, 0]) for crop in crops}) > 5


def test_decoded_pictures_are_brought_to_their_size_too():
  (image,) = make('picture', {'image': PIXELS})
  np.testing.assert_array_equal(image.pixels, np.full((8, 16, 3), 200))


def test_text_alone():
  assert told(make('text', {'text': 'Once.'})) == ['Once.']


def test_interleaved_documents():
  record = {
    'text': [None, 'one', 'two', '', 'three'],
    'image': [PICTURE, None, b'', PICTURE, None],
  }
  document = make('interleaved', record)
  assert told(document) == [(True, 0.5), 'one', 'two', (True, 1.0), 'three']


def test_edits_learn_the_result_alone():
  record = {'image': PICTURE, 'text': 'make it red', 'result': PICTURE}
  document = make('edit', record)
  assert told(document) == [(False, 0.0), 'make it red', (True, 1.0)]
  assert learnt(document) == [False, False, True]


def test_questions_learn_the_answer_alone():
  record = {'image': PICTURE, 'text': 'what?', 'answer': 'a fox'}
  document = make('question', record)
  assert told(document) == [(False, 0.0), 'what?', 'a fox']
  assert learnt(document) == [False, False, True]
  assert told(make('question', {'text': 'what?', 'answer': 'it'})) == ['what?', 'it']


def test_moments_are_taken_as_they_are():
  moments = np.zeros((4, 4, 6), np.float16)
  (image,) = make('picture', {'image': moments}, pictures=None)
  assert image.pixels is moments
  with pytest.raises(
    ValueError, match=r'found float16\[4, 4, 6\]; .* data.moments=true'
  ):
    make('picture', {'image': moments})
  with pytest.raises(ValueError, match=r'latents from encode_images .* found bytes'):
    make('picture', {'image': PICTURE}, pictures=None)


def test_one_generator_one_document():
  record = {'image': PICTURE, 'text': ['one', 'two']}
  for seed in range(10):
    one, other = make('captioned', record, seed), make('captioned', record, seed)
    assert told(one) == told(other)


@pytest.mark.parametrize(
  ('kind', 'record', 'message'),
  [
    ('captioned', {}, r"something in \('image', 'text'\), found nothing"),
    ('captioned', {'image': PICTURE, 'text': 7}, 'expected text .* found int'),
    ('captioned', {'image': 'a.png'}, r'expected the bytes of a picture .* found str'),
    ('captioned', {'image': b'GIF89a'}, 'expected a readable picture'),
    ('text', {'text': ''}, 'found nothing'),
    ('picture', {'text': 'a fox'}, 'found nothing'),
    ('interleaved', {'text': ['a'], 'image': []}, 'found 1 in .text. and 0 in .image.'),
    ('interleaved', {'text': ['a'], 'image': [PICTURE]}, 'found both at one'),
    ('edit', {'image': PICTURE, 'text': 'red'}, 'two pictures and an instruction'),
    ('question', {'text': 'what?'}, 'a question and an answer'),
  ],
)
def test_what_is_refused(kind, record, message):
  for seed in range(5):
    with pytest.raises(ValueError, match=message):
      make(kind, record, seed, caption_drop=0.0)


@pytest.mark.parametrize('field', ['caption_first', 'caption_drop', 'noise_cap'])
def test_shares_are_shares(field):
  with pytest.raises(ValueError, match=f'expected {field} from 0 to 1, found 1.5'):
    make('text', {}, **{field: 1.5})


JUNK = [
  *(None, '', ' \n', 'text', 'half \ud800', b'', b'bytes', b'\x89PNG', PICTURE),
  *(0, -1, 2**70, 1.5, float('nan'), True, {}, {'a': {'b': 1}}, (), ('a',), {1}),
  *([], [[]], [None], ['a', 3], [[['a']]], [PICTURE], [PICTURE, PICTURE], [b'x'], [{}]),
  *(np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros(3, np.uint8)),
  *(np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 7), np.uint8), PIXELS),
  *(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((4, 4, 6), np.float16), np.float32(3)),
]
"""Values of all kinds, for any field."""


def deep(levels):
  value = 'a'
  for _ in range(levels):
    value = [value]
  return value


@pytest.mark.parametrize(
  'kind', ['captioned', 'text', 'picture', 'interleaved', 'edit', 'question']
)
@pytest.mark.parametrize('pictures', [CENTRE, None])
def test_whatever_a_field_holds_is_a_document_or_one_line(kind, pictures):
  rng = np.random.default_rng(0)
  values = [*JUNK, deep(900)]
  section = dataclasses.replace(tiny.source('folder', 'x').form, kind=kind)
  form = forms.Form(section, pictures)
  outcomes = []
  for seed in range(600):
    names = ('image', 'text', 'answer', 'result')
    record = {name: values[rng.integers(len(values))] for name in names}
    outcomes.append(refusal(form.document, record, np.random.default_rng(seed)))
    outcomes.append(refusal(form.captioned, record))
  for said in filter(None, outcomes):
    assert len(said.splitlines()) == 1
    assert re.match('expected .*, found .*; ', said), said
  assert any(outcomes)
  assert not all(outcomes) or kind in ('edit', 'question')


def refusal(make, *args):
  """What a ValueError says; empty if there was none."""
  try:
    make(*args)
  except ValueError as error:
    return str(error)
  return ''


def test_a_list_of_one_picture_is_a_picture():
  for value in (PICTURE, [PICTURE], PIXELS, [PIXELS]):
    assert told(make('picture', {'image': value})) == [(True, 1.0)]
  moments = np.zeros((4, 4, 6), np.float16)
  assert told(make('picture', {'image': [moments]}, pictures=None)) == [(True, 1.0)]
  with pytest.raises(ValueError, match=r"one image .* list of 2; .*'interleaved'"):
    make('captioned', {'image': [PICTURE, PICTURE], 'text': 'a'})


def test_grey_pixels_are_pictures():
  for shape in ((8, 16), (8, 16, 1)):
    (image,) = make('picture', {'image': np.full(shape, 7, np.uint8)})
    np.testing.assert_array_equal(image.pixels, np.full((8, 16, 3), 7))


def test_names_of_fields_may_have_dots():
  record = {'meta.picture': PICTURE, 'meta.caption': 'a fox'}
  changes = {'picture': 'meta.picture', 'text': 'meta.caption', 'caption_drop': 0.0}
  assert 'a fox' in told(make('captioned', record, **changes))
