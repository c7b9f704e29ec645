"""Compiler options are the compiler's own, and the user's come first."""

from unittest import mock

import jax
import pytest

from transfusion_jax.core import compiler

NAME = 'xla_cpu_experimental_ynn_fusion_type'


def test_a_step_on_a_cpu_is_compiled_with_options_that_its_compiler_knows():
  options = compiler.training('cpu')
  assert list(options) == [NAME]
  step = jax.jit(lambda x: x @ x, compiler_options=options)
  assert step(jax.numpy.ones((4, 4))).sum() == 64


def test_what_the_user_says_is_not_overridden(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', f'--{NAME}=LIBRARY_FUSION_TYPE_ELTWISE')
  assert compiler.training('cpu') == {}


@pytest.mark.parametrize('platform', ['tpu', 'gpu', 'cuda'])
def test_other_platforms_keep_the_defaults_of_their_compilers(platform):
  assert compiler.training(platform) == {}


def test_an_option_that_the_compiler_does_not_know_is_left_out():
  unknown = {'cpu': {'xla_cpu_option_of_a_later_year': '1'}}
  with mock.patch.object(compiler, 'OPTIONS', unknown):
    assert compiler.training('cpu') == {}
