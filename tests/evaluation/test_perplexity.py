"""Perplexity counts every token once, and says the same whatever the rows."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from tests.support import tiny
from transfusion_jax.data.emoji import scenes as emoji_scenes
from transfusion_jax.data.images import image_files
from transfusion_jax.evaluation import perplexity
from transfusion_jax.runs import config

SCENES = config.build(emoji_scenes.EmojiScenesConfig, base.transfusion().data.scenes)
PICTURES = config.build(image_files.ImagesConfig, base.transfusion().data.images)
TEXTS = ['a b c', 'd', ' '.join(tiny.WORDS * 7), 'p o n m', 'é a']


def section(path, **changes) -> perplexity.PerplexityConfig:
  source = base.source('json_lines', str(path), form='text')
  made = base.evaluator('perplexity', source, **changes)
  return config.build(perplexity.PerplexityConfig, made)


def write(path, texts):
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
  return path


def measured(path, *, rows=3, **changes) -> dict[str, float]:
  made = perplexity.Perplexity(
    section(path, **changes), scenes=SCENES, pictures=PICTURES, rows=rows
  )
  return dict(made(tiny.writer()))


def by_hand(text: str) -> float:
  """Nats of a text, token by token, in windows of the context."""
  special, total = tiny.SPECIAL, 0.0
  ids = [special.bos, *tiny.TOKENIZER.encode(text)]
  for first in range(0, len(ids) - 1, tiny.LENGTH):
    here = ids[first : first + tiny.LENGTH]
    row = tiny.batch([[tiny.document(tiny.text('a'))]])
    padded = here + [0] * (tiny.LENGTH - len(here))
    position = np.arange(tiny.LENGTH)[None]
    row = tiny.replaced(
      row,
      tokens=jnp.asarray([padded]),
      position=jnp.asarray(position),
      start=jnp.zeros((1, tiny.LENGTH), jnp.int32),
      end=jnp.asarray(position + 1),
    )
    clean = jnp.zeros(row.noise_cap.shape)
    logits = np.asarray(tiny.forward(tiny.model(), row, row.images, clean)[0])[0]
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    following = ids[first + 1 : first + 1 + tiny.LENGTH]
    total -= sum(log_p[k, token] for k, token in enumerate(following))
  return total


def test_every_token_counts_once(tmp_path):
  texts = TEXTS[:4]
  found = measured(write(tmp_path / 'a.jsonl', texts))
  tokens = sum(len(tiny.TOKENIZER.encode(text)) for text in texts)
  assert found['tokens'] == tokens == 3 + 1 + 112 + 4
  assert found['bytes'] == sum(len(text) for text in texts)
  nats = sum(by_hand(text) for text in texts)
  assert found['nats_per_token'] == pytest.approx(nats / tokens, rel=1e-5)
  assert found['perplexity'] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
  assert found['bits_per_byte'] == pytest.approx(
    nats / math.log(2) / found['bytes'], rel=1e-5
  )


def test_rows_do_not_matter(tmp_path):
  path = write(tmp_path / 'a.jsonl', TEXTS[:4])
  one, three = measured(path, rows=1), measured(path, rows=3)
  assert one == pytest.approx(three, rel=1e-6)


def test_the_first_documents_and_those_left_out(tmp_path):
  path = write(tmp_path / 'a.jsonl', ['a b', '', 'c', 'd e f'])
  found = measured(path)
  assert (found['documents'], found['left_out'], found['tokens']) == (3, 1, 6)
  found = measured(path, documents=1)
  assert (found['documents'], found['left_out'], found['tokens']) == (1, 0, 2)


def test_a_folder_of_texts(tmp_path):
  (tmp_path / 'a.txt').write_text('a b c')
  source = base.source('folder', str(tmp_path), form='text')
  made = config.build(perplexity.PerplexityConfig, base.evaluator('perplexity', source))
  one = perplexity.Perplexity(made, scenes=SCENES, pictures=PICTURES, rows=1)
  assert dict(one(tiny.writer()))['tokens'] == 3


def test_what_cannot_be_measured(tmp_path):
  with pytest.raises(ValueError, match='nowhere'):
    measured(tmp_path / 'nowhere.jsonl')
  with pytest.raises(ValueError, match='none of 2 sound'):
    measured(write(tmp_path / 'b.jsonl', ['', '']))
  captioned = base.evaluator('perplexity', base.source('folder', str(tmp_path)))
  with pytest.raises(ValueError, match="form 'text'"):
    config.build(perplexity.PerplexityConfig, captioned)
