"""Trains a model: `python -m transfusion_jax.train --config=FILE --workdir=DIR`.

Any field of the config can be changed: `--config.train.steps=100`. The same command
goes on with a run that was stopped; one that differs in what is learnt is refused,
unless `--allow=data.sources` names the field or section. A mixed run trains its
autoencoder first, unless `--config.autoencoder.checkpoint` names one. With evaluators
it ends with a report; `python -m transfusion_jax.evaluate` goes on from there.

On several hosts the same command runs on each with `--distributed`, and DIR is a folder
that all of them see. On a slice of a TPU pod:

  gcloud compute tpus tpu-vm ssh NAME --worker=all --command="
    python -m transfusion_jax.train --distributed --config=FILE --workdir=DIR"

`python -m launch.local` starts several processes on one machine, which join without the
flag. A run may go on with another number of processes than it was stopped with.
"""

import contextlib
import pathlib
import shlex
import signal
import sys
import time

import jax
from absl import flags
from ml_collections import config_flags

from transfusion_jax.core import command, log
from transfusion_jax.runs import autoencoder, config, generative, preflight, stages
from transfusion_jax.runs import input as input_lib
from transfusion_jax.training import lock, mesh, preemption, processes, workdir

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file, for example configs/emoji_scenes.py.', lock_config=True
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for all that the run writes.')
_ALLOW = flags.DEFINE_list(
  'allow', [], 'Fields that may differ from what the run was begun with.'
)
_DISTRIBUTED = flags.DEFINE_boolean(
  'distributed', False, 'Join the other hosts, which JAX finds (Cloud TPU, Slurm).'
)


def main() -> None:
  """Checks everything a user can get wrong, then trains."""
  started = time.monotonic()
  signal.signal(signal.SIGTERM, preemption.leave)
  with command.user_errors():
    if _CONFIG.value is None or not _WORKDIR.value:
      raise ValueError(
        'expected --config=FILE and --workdir=DIR, found only one or none; for example '
        '--config=configs/emoji_scenes.py --workdir=runs/emoji_scenes'
      )
    place = workdir.at(_WORKDIR.value)
    run = config.parse(_CONFIG.value)
    preflight.check(run)
    preflight.check_files(run)
    mesh.join(_DISTRIBUTED.value)
  if not processes.leads():
    log.quiet()
  with preemption.Stop() as stop, contextlib.ExitStack() as ends:
    with command.user_errors():
      preflight.check_devices(run, jax.devices())
      input_lib.check_latents(run)
      preflight.check_start(run, place)
      preflight.trace(run)
      stages.check(place, run, _ALLOW.value)
      held = ends.enter_context(lock.Lock(place.lock))
      stages.claim(place, run, _ALLOW.value)
    _keep_programs(run.train.compile_cache, place)
    if isinstance(run, config.AutoencoderRun):
      autoencoder.train(run, place, stop, held)
    else:
      generative.train(
        run,
        place,
        stop,
        held,
        started=started,
        command_line=f'python -m transfusion_jax.train {shlex.join(sys.argv[1:])}',
      )


def _keep_programs(folder: str, place: workdir.Workdir) -> None:
  """Lets JAX keep what it compiles, unless its own variable says where."""
  if folder and not jax.config.jax_compilation_cache_dir:
    path = place.programs if folder == 'workdir' else pathlib.Path(folder)
    jax.config.update('jax_compilation_cache_dir', str(path.absolute()))


if __name__ == '__main__':
  command.run(main)
