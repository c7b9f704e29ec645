"""The GPU backend without a GPU: what it asks of the library, and what it does without.

The library is a stand-in that keeps to the documented signature: positions before
heads, a mask of the first key and the end of every query that broadcasts over heads.
"""

import dataclasses
import logging
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import attention_cases
from transfusion_jax.core import log
from transfusion_jax.ops import attention, span

CASES = ('bfloat16-64', 'bfloat16-128')


@dataclasses.dataclass
class Mask:
  k_start: jax.Array
  k_end: jax.Array


def operation(q, k, v, *, mask):
  """What the library's operation does, through the dense reference."""
  b, queries, heads, d = q.shape
  assert k.shape == v.shape == (b, k.shape[1], k.shape[2], d)
  assert heads % k.shape[2] == 0
  assert queries % 128 == k.shape[1] % 128 == 0
  assert mask.k_start.shape == mask.k_end.shape == (b, 1, queries)
  assert mask.k_start.dtype == mask.k_end.dtype == jnp.int32
  spans = span.Span(mask.k_start[:, 0], mask.k_end[:, 0])
  o = attention.attend(
    *(jnp.swapaxes(x, 1, 2) for x in (q, k, v)), spans, backend='xla_dense'
  )
  # It leaves open what a query without keys gives; NaN, say.
  return jnp.swapaxes(
    jnp.where((spans.start < spans.end)[:, None, :, None], o, jnp.nan), 1, 2
  )


@pytest.fixture
def library(monkeypatch):
  """A GPU and the library, as far as the backend looks at them."""
  names = 'tokamax tokamax._src tokamax._src.ops tokamax._src.ops.attention'.split()
  modules = {name: types.ModuleType(name) for name in names}
  package = modules['tokamax._src.ops.attention']
  package.api = types.SimpleNamespace(IMPLEMENTATIONS={'mosaic_gpu': operation})
  package.base = types.SimpleNamespace(Mask=Mask)
  for name, module in modules.items():
    monkeypatch.setitem(sys.modules, name, module)
  pretend_gpu(monkeypatch, '9.0')
  return package


def pretend_gpu(monkeypatch, capability):
  device = types.SimpleNamespace(platform='gpu', compute_capability=capability)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])


@pytest.fixture
def said(caplog):
  """What is said once, said afresh."""
  log.once.cache_clear()
  caplog.set_level(logging.INFO, logger=log.logger.name)
  log.logger.propagate = True
  yield caplog
  log.once.cache_clear()


def through_gpu(q, k, v, spans):
  return attention.attend(q, k, v, spans, backend='gpu')


@pytest.mark.parametrize('name', CASES)
def test_the_library_gets_the_right_arrays(library, name):
  attention_cases.check(through_gpu, name)


def test_spans_stay_spans_for_the_library(library):
  _, spans, _ = attention_cases.random_case('bfloat16-64')
  assert attention.prepare(spans, 256, backend='gpu') is spans


@pytest.mark.parametrize(
  ('case', 'capability', 'why'),
  [
    ('bfloat16-64', None, 'no GPU'),
    ('bfloat16-64', '8.0', 'compute capability 8.0'),
    ('bfloat16-64', '9.0', 'tokamax does not offer'),
    ('float32-64', '9.0 with the library', 'float32 heads of 64'),
    ('float32-256', '9.0 with the library', 'heads of 256'),
  ],
)
def test_without_it_xla_does_the_work_and_says_so_once(
  case, capability, why, monkeypatch, request, said
):
  if capability and 'library' in capability:
    request.getfixturevalue('library')
  elif capability:
    monkeypatch.setitem(sys.modules, 'tokamax', None)
    pretend_gpu(monkeypatch, capability)
  (q, k, v, _), spans, _ = attention_cases.random_case(case)
  q, k, v, spans = jax.tree.map(lambda x: x[:2], (q, k, v, spans))
  prepared = attention.prepare(spans, k.shape[2], backend='gpu')
  for each in (spans, prepared):
    found = attention.attend(q, k, v, each, backend='gpu')
  expected = attention.attend(q, k, v, spans, backend='xla')
  np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
  assert len(said.messages) == 1
  assert why in said.messages[0]
