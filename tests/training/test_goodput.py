"""Every second goes to one account, compilation too wherever it happens."""

import time

import jax
import jax.numpy as jnp
import pytest

from transfusion_jax.training import goodput


@pytest.fixture
def clock(monkeypatch):
  """A clock that is moved by hand."""
  now = [100.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])

  def pass_(seconds):
    now[0] += seconds

  return pass_


def test_seconds_go_to_what_is_open(clock):
  account = goodput.Account()
  clock(1.0)
  with account.on('step'):
    clock(2.0)
    with account.on('data'):
      clock(4.0)
    clock(8.0)
  clock(16.0)
  account.add({'lost': 5.0, 'step': 100.0})
  assert account.seconds == {'begin': 17.0, 'step': 110.0, 'data': 4.0, 'lost': 5.0}
  assert account.total == 136.0


def test_compiling_is_taken_from_what_is_open(clock):
  account = goodput.Account()
  with account.on('step'):
    clock(10.0)
    account.compiled(7.0)
  assert account.seconds['step'] == 3.0
  assert account.seconds['compile'] == 7.0


def test_jax_is_heard_while_an_account_is_open():
  with goodput.Account() as account:
    jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready()
    heard = account.seconds['compile']
  assert heard > 0
  jax.jit(lambda x: x * 5 + 1)(jnp.ones(7)).block_until_ready()
  assert account.seconds['compile'] == heard


def test_shares_are_largest_first():
  seconds = {'save': 1.0, 'step': 8.0, 'data': 1.0}
  assert goodput.shares(seconds) == 'step 80.0 %, save 10.0 %, data 10.0 %'
