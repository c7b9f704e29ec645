"""CLIP scores from a small CLIP of random weights, where open_clip is installed."""

import importlib.util
import json

import numpy as np
import pytest

from transfusion_jax.evaluation import clip_score, extras

TEXTS = ('a red picture', 'a blue picture', 'two pandas')


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """A file of random weights of the model 'tiny-clip', which open_clip then knows."""
  torch = pytest.importorskip('torch')
  open_clip = pytest.importorskip('open_clip')
  folder = tmp_path_factory.mktemp('clip')
  layers = {'layers': 1, 'width': 32}
  text = {'context_length': 77, 'vocab_size': 49408, 'heads': 2, **layers}
  sizes = {
    'embed_dim': 16,
    'vision_cfg': {'image_size': 32, 'patch_size': 16, 'head_width': 16, **layers},
    'text_cfg': text,
  }
  (folder / 'tiny-clip.json').write_text(json.dumps(sizes))
  open_clip.add_model_config(folder / 'tiny-clip.json')
  torch.manual_seed(0)
  path = folder / 'weights.pt'
  torch.save(open_clip.create_model('tiny-clip').state_dict(), path)
  return str(path)


def pictures() -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (3, 40, 24, 3), np.uint8)


def test_scores_are_cosines_of_the_models_own_embeddings(weights):
  import open_clip
  import torch
  from PIL import Image

  found = clip_score.ClipScore(clip_score.ClipConfig('tiny-clip', weights))(
    TEXTS, pictures()
  )
  model, _, prepare = open_clip.create_model_and_transforms(
    'tiny-clip', pretrained=weights
  )
  model.eval()
  wanted = []
  for text, picture in zip(TEXTS, pictures(), strict=True):
    with torch.no_grad():
      seen = model.encode_image(prepare(Image.fromarray(picture))[None]).numpy()[0]
      read = model.encode_text(open_clip.get_tokenizer('tiny-clip')([text])).numpy()[0]
    cosine = seen @ read / np.linalg.norm(seen) / np.linalg.norm(read)
    wanted.append(100 * max(cosine, 0))
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  assert np.ptp(found) > 1


def test_a_model_and_weights_that_do_not_fit(weights):
  unknown = clip_score.ClipScore(clip_score.ClipConfig('tiny-clop', weights))
  with pytest.raises(ValueError, match="a model of open_clip, found 'tiny-clop'"):
    unknown(TEXTS, pictures())
  other = clip_score.ClipScore(clip_score.ClipConfig('ViT-S-32-alt', weights))
  with pytest.raises(ValueError, match='expected weights of ViT-S-32-alt in '):
    other(TEXTS, pictures())


def test_what_is_missing_is_said_at_once(tmp_path, monkeypatch):
  config = clip_score.ClipConfig('ViT-B-32', str(tmp_path / 'none.pt'))
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='expected the package open_clip for the CLIP'):
    clip_score.ClipScore(config)
  monkeypatch.setattr(extras, 'need', lambda package, purpose: None)
  with pytest.raises(ValueError, match='the weights of CLIP ViT-B-32, found no file'):
    clip_score.ClipScore(config)
