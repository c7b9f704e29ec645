"""Autoencoder stage: its training, and the measures of its latents."""

from transfusion_jax.core import command, log, sealed_json
from transfusion_jax.runs import build, config, stages
from transfusion_jax.runs import input as input_lib
from transfusion_jax.training import (
  lock,
  loop,
  mesh,
  preemption,
  processes,
  workdir,
)


def train(
  run: config.AutoencoderRun,
  place: workdir.Workdir,
  stop: preemption.Stop,
  held: lock.Lock,
) -> float:
  """Trains an autoencoder and measures its latents; the seconds it took in all.

  Args:
    run: what is trained.
    place: its work directory.
    stop: asked after every step.
    held: the lock of the work directory.

  Raises:
    command.Exit: the run was asked to stop, and did.
  """
  devices = mesh.make(run.mesh)
  trainer = build.trainer(run, devices)
  outcome = stages.train(
    run,
    trainer,
    name='autoencoder',
    feed=lambda state: input_lib.pictures(run, devices, state),
    callback=loop.Callback(0, lambda _: None),
    place=place,
    stop=stop,
    before={},
    held=held,
  )
  params = processes.own(outcome.state.averaged, devices)
  step = int(outcome.state.step)
  if processes.leads() and not _measured(place, step):
    stop.unless_asked(lambda: _measure(run, params, place, step))
  processes.meet('autoencoder measured')
  stages.leave_if_stopped(stop)
  return sum(outcome.seconds.values())


def _measured(place: workdir.Workdir, step: int) -> bool:
  """True if the latents of this step were measured; a longer run has others."""
  return place.latents.exists() and sealed_json.read(place.latents).get('step') == step


def _measure(
  run: config.AutoencoderRun, params, place: workdir.Workdir, step: int
) -> None:
  bind = build.autoencoder_blueprint(run).definition.bind
  with command.user_errors():
    measured = input_lib.measure(run, bind(params))
  sealed_json.write(place.latents, {'step': step, **measured})
  log.info(f'autoencoder: {measured["psnr"]:.2f} dB PSNR on test pictures')
