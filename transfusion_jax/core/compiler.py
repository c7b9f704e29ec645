"""What the compiler is told beyond its defaults.

XLA on a CPU gives whole chains of elementwise work to YNNPACK; a training step is
faster (9 % in a float32 model of width 384) where that gets matrix products alone.
Samplers are not, and keep the defaults.
"""

import functools
import os

import jax

OPTIONS = {
  'cpu': {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_DOT'},
}
"""By platform, for a training step."""


def training(platform: str) -> dict[str, str]:
  """Options of `jax.jit` for a training step.

  Args:
    platform: of the devices that it is compiled for, 'cpu', 'gpu' or 'tpu'.

  Returns:
    Those that `XLA_FLAGS` leaves open, and that this compiler knows.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  options = OPTIONS.get(platform, {})
  return {
    name: value
    for name, value in options.items()
    if name not in flags and _known(name, value, platform)
  }


@functools.cache
def _known(name: str, value: str, platform: str) -> bool:
  """Whether a program compiles with an option; its name is an experiment of XLA's."""
  program = jax.jit(lambda: 0.0, compiler_options={name: value})
  try:
    with jax.default_device(jax.local_devices(backend=platform)[0]):
      program.lower().compile()
  except (jax.errors.JaxRuntimeError, RuntimeError):
    return False
  return True
