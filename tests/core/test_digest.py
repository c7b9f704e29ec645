"""Digests: any changed bit shows, sharding does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transfusion_jax.core import digest
from transfusion_jax.training import mesh


def tree():
  rng = np.random.default_rng(0)
  return {
    'a': jnp.asarray(rng.normal(size=(16, 8, 4)), jnp.float32),
    'b': jnp.asarray(rng.integers(0, 256, (16, 3)), jnp.uint8),
    'c': jnp.asarray(rng.normal(size=16), jnp.bfloat16),
    'd': jnp.asarray(rng.random(16) < 0.5),
  }


def text(values):
  return digest.text(jax.device_get(jax.jit(digest.digest)(values)))


def test_sharding_makes_no_difference():
  values, found = tree(), set()
  for sizes in [(1, 8, 1, 1), (2, 2, 1, 2), (8, 1, 1, 1)]:
    names = ('data', 'fsdp', 'sequence', 'tensor')
    devices = mesh.make(mesh.MeshConfig(**dict(zip(names, sizes, strict=True))))
    for spec in (PartitionSpec(('data', 'fsdp')), PartitionSpec('tensor')):
      found.add(text(jax.device_put(values, NamedSharding(devices, spec))))
  assert found == {text(values)}


@pytest.mark.parametrize('name', ['a', 'b', 'c'])
def test_every_flipped_bit_shows(name):
  values = tree()
  before, array = text(values), np.asarray(values[name])
  rng = np.random.default_rng(1)
  for _ in range(64):
    flipped = bytearray(array.tobytes())
    flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
    changed = np.frombuffer(flipped, array.dtype).reshape(array.shape)
    assert text({**values, name: jnp.asarray(changed)}) != before


def test_exchanged_elements_rows_and_arrays_show():
  x = jnp.arange(24.0).reshape(4, 6)
  for other in (x[::-1], x[:, ::-1], x.at[0, 0].set(x[0, 1]).at[0, 1].set(x[0, 0])):
    assert text(x) != text(other)
  assert text([x, x + 1]) != text([x + 1, x])


def test_keys_have_a_digest():
  assert text(jax.random.key(0)) != text(jax.random.key(1))
