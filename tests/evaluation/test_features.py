"""Networks that look at pictures: EfficientNet-Lite0 in JAX, Inception in PyTorch."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transfusion_jax.evaluation import extras, features
from transfusion_jax.models import module
from transfusion_jax.models.published import efficientnet


@pytest.fixture
def random_weights(monkeypatch):
  """A network of random weights in place of those of the package."""
  plan = module.blueprint(efficientnet.EfficientNet)
  monkeypatch.setattr(efficientnet, 'find', lambda weights: weights)
  random = np.random.default_rng(0)

  def read(path, shapes):
    assert path.endswith('/a file')
    return jax.tree.map(
      lambda leaf: (
        random.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
      ).astype(np.float32),
      shapes,
    )

  monkeypatch.setattr(efficientnet, 'read', read)
  return plan


def test_pictures_of_any_size_become_features(random_weights):
  network = features.make(features.FeaturesConfig('efficientnet_lite0', 'a file'))
  assert network.distance == 'frechet_efficientnet_lite0'  # and never FID
  random = np.random.default_rng(1)
  small = random.integers(0, 256, (2, 8, 12, 3), np.uint8)
  found = network(small)
  assert found.shape == (2, 1280)
  assert found.dtype == np.float32
  turned = network(small[::-1])
  np.testing.assert_allclose(turned[::-1], found, rtol=1e-3, atol=1e-5)
  # One colour has one size: what resizing makes of it is known.
  flat = np.full((2, 8, 12, 3), 200, np.uint8)
  whole = jnp.full((2, 224, 224, 3), 200.0)
  wanted = jax.jit(lambda net, x: net(x))(network._network, whole)
  np.testing.assert_allclose(network(flat), wanted, rtol=1e-3, atol=1e-5)


def test_what_is_missing_is_said_before_a_device_works(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match='weights of EfficientNet-Lite0, found no '):
    features.make(
      features.FeaturesConfig('efficientnet_lite0', str(tmp_path / 'none.pth'))
    )
  inception = features.FeaturesConfig('inception', str(tmp_path / 'none.pth'))
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match="package torch_fidelity .*jax.eval]', or rem"):
    features.make(inception)
  monkeypatch.setattr(extras, 'need', lambda package, purpose: None)
  with pytest.raises(ValueError, match="weights of Inception .*no file '.*none.pth'"):
    features.make(inception)


def test_inception_where_torch_fidelity_is_installed(tmp_path):
  """Random weights in a file: the features are those of the package's own class."""
  torch = pytest.importorskip('torch')
  theirs = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3')
  torch.manual_seed(0)
  make, path = theirs.FeatureExtractorInceptionV3, tmp_path / 'inception.pth'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(make, 'load_state_dict', lambda self, state: None)
    patch.setattr(torch, 'load', lambda *_, **__: None)
    torch.save(make('random', ['2048'], 'no file').state_dict(), path)
  pictures = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
  network = features.make(features.FeaturesConfig('inception', str(path)))
  assert (network.distance, network.kernel) == ('fid', 'kid')
  wanted = make('ours', ['2048'], str(path))
  (wanted,) = wanted(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
  found = network(pictures)
  assert found.shape == (2, 2048)
  np.testing.assert_array_equal(found, wanted.numpy())
  assert not np.allclose(found[0], found[1])
