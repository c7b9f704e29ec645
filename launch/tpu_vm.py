r"""Trains on TPU VMs: requests slices, runs a command on all hosts, and follows it.

  python -m launch.tpu_vm --name=run1 --project=PROJECT --zone=us-west4-a \
    --topology=v5e:16x16 --slices=2 --spot --setup='MOUNT' -- \
    python -m transfusion_jax.train --distributed --config=FILE --workdir=/runs/run1

Requests a queued resource, waits for it, copies this code to every host, installs it,
and runs the command. If Google preempts the machines, or the command exits with 42,
they are deleted and requested again, and the command continues from its last
checkpoint: --workdir must be a folder that outlives the machines, which `--setup`
mounts. Any other failure while the machines exist ends the launcher, with the exit code
of the command. A broken connection does not: the hosts continue, and the launcher, or
the same launcher started again, reconnects. Ctrl-C makes the run save and stop. At the
end the machines are deleted, unless `--keep`. `--dry-run` prints the commands in order.
"""

import argparse
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from launch import command_line, pods, queued_resource

TICK, POLL, SETTLE = 1.0, 30.0, 180.0
"""Seconds between checks of the commands, between checks of the machines' state, and
from a failure until that state is reliable: Google reports a preemption late."""

ACTIVE, FAILED, SUSPENDED = 'ACTIVE', 'FAILED', 'SUSPENDED'
ABSENT, UNKNOWN = 'ABSENT', 'UNKNOWN'
"""Additional states: there is no such request; gcloud could not be asked."""

_LOST, _INTERRUPTED = 255, 130
"""Exit codes of ssh after a broken connection, and of a run stopped by a person."""


class Keeper:
  """Obtains machines, runs commands on all of them, and replaces preempted ones."""

  def __init__(self, resource: queued_resource.QueuedResource, attempts: int):
    """Creates a keeper; requests nothing yet.

    Args:
      resource: machines to request.
      attempts: maximum number of requests.
    """
    self._resource, self._attempts = resource, attempts
    self.trouble = ''  # why gcloud did not answer

  def run(self, stages: Sequence[Sequence[Sequence[str]]]) -> int:
    """Runs all stages, on new machines after every preemption.

    Args:
      stages: stages in order; each has a command for every slice, run in parallel.

    Returns:
      The exit code of the last stage that ran.
    """
    for attempt in range(1, self._attempts + 1):
      if not self._obtain(again=attempt > 1):
        return command_line.USER_ERROR
      code = self._all(stages)
      if code in (0, command_line.USER_ERROR, _INTERRUPTED):
        return code
      if code == command_line.RETRY or self._gone():
        say(f'attempt {attempt} of {self._attempts}: stopped from outside; again')
        self.give_back()
      elif code == _LOST:
        say(f'attempt {attempt} of {self._attempts}: connection lost; again')
      else:
        return code
    return command_line.RETRY

  def state(self) -> str:
    """State of the request, as reported by Google."""
    done = subprocess.run(
      self._resource.describe(), capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
      return done.stdout.strip()
    if 'NOT_FOUND' in done.stderr:
      return ABSENT
    self.trouble = ' '.join(done.stderr.split())
    return UNKNOWN

  def give_back(self) -> None:
    """Deletes the machines, which would otherwise be paid for."""
    if subprocess.run(self._resource.delete(), check=False).returncode:
      say(f'expected {self._resource.name} to be deleted, which failed; do it by hand')

  def stop(self) -> None:
    """Makes the run save and end, through its first host, which informs the others."""
    for node in self._resource.nodes:
      subprocess.run(self._resource.on(node, queued_resource.stop()), check=False)

  def _obtain(self, *, again: bool) -> bool:
    """Waits for machines; returns False if a first request fails: it may be wrong."""
    said = ''
    while (state := self.state()) != ACTIVE:
      if state != said:
        why = f' ({self.trouble})' if state == UNKNOWN else ''
        say(f'{self._resource.name}: {state}{why}')
      said = state
      if state == FAILED and not again:
        say(
          f'expected machines, found that the request for {self._resource.name} '
          'failed; gcloud compute tpus queued-resources describe says why'
        )
        return False
      if state in (FAILED, SUSPENDED):
        self.give_back()
      elif state == ABSENT:
        asked = subprocess.run(self._resource.create(), check=False).returncode == 0
        if not asked and not again:
          return False
        if asked:
          continue
      time.sleep(POLL)
    return True

  def _all(self, stages: Sequence[Sequence[Sequence[str]]]) -> int:
    """Runs stages in order until one fails; returns its exit code, or 0."""
    *before, last = stages
    for commands in before:
      code = self._together(commands)
      if code:  # of a tool of the shell, which does not know ours
        return code if code == _LOST else 1
    return self._together(last)

  def _together(self, commands: Sequence[Sequence[str]]) -> int:
    """Runs commands in parallel; returns the exit code of the first failure, or 0."""
    running = [subprocess.Popen(each, start_new_session=True) for each in commands]
    looked = time.monotonic()
    try:
      while any(codes := [each.poll() for each in running]) or None in codes:
        if any(codes):
          return next(filter(None, codes))
        if time.monotonic() - looked > POLL:
          looked = time.monotonic()
          if self.state() not in (ACTIVE, UNKNOWN):
            return command_line.RETRY
        time.sleep(TICK)
      return 0
    except KeyboardInterrupt:
      self.stop()
      raise
    finally:
      for each in running:
        each.terminate()
        each.wait()

  def _gone(self) -> bool:
    """True if Google has preempted the machines, which it may report with a delay."""
    say(f'ended on its own; are the machines still there in {SETTLE:.0f} seconds?')
    end = time.monotonic() + SETTLE
    while (state := self.state()) in (ACTIVE, UNKNOWN) and time.monotonic() < end:
      time.sleep(POLL)
    return state not in (ACTIVE, UNKNOWN)


def say(line: str) -> None:
  """Prints a message for the user of the launcher."""
  print(f'launch.tpu_vm: {line}', file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
  """Parses the command line and runs the command; returns the exit code."""
  parser = _parser()
  asked = parser.read(argv)
  with parser.user_errors():
    resource = _resource(asked)
    resource.create()
    command_line.check_remote(asked.command, resource.pod.hosts)
  # Of this user alone: where anybody may write, a link could lie in its place.
  with tempfile.TemporaryDirectory() as folder:
    archive = str(pathlib.Path(folder) / f'{asked.name}.tgz')
    stages = _stages(resource, archive, setup=asked.setup, command=asked.command)
    if asked.dry_run:
      _print(resource, archive, stages, keep=asked.keep)
      return 0
    parser.need('gcloud', 'install the Google Cloud CLI, or see --dry-run')
    keeper = Keeper(resource, asked.attempts)
    if keeper.state() == UNKNOWN:
      parser.error(
        f'expected gcloud to answer, found {keeper.trouble!r}; correct --project and '
        '--zone, or log in'
      )
    subprocess.run(queued_resource.pack(archive), check=True)
    return _keep(keeper, stages, keep=asked.keep)


def _keep(
  keeper: Keeper, stages: Sequence[Sequence[Sequence[str]]], *, keep: bool
) -> int:
  """Runs all stages, and in any case deletes the machines at the end."""
  before = signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    return keeper.run(stages)
  except KeyboardInterrupt:
    return _INTERRUPTED
  finally:
    if not keep and keeper.state() != ABSENT:
      keeper.give_back()
    signal.signal(signal.SIGTERM, before)


def _parser() -> command_line.Parser:
  usage = '--name=NAME --project=PROJECT --zone=ZONE --topology=CHIP:AxB [...]'
  parser = command_line.Parser('launch.tpu_vm', __doc__, usage)
  parser.add_argument('--name', required=True, help='of the queued resource')
  parser.add_argument('--project', required=True, help='of Google Cloud')
  parser.add_argument('--zone', required=True, help='for example us-west4-a')
  parser.add_argument('--topology', required=True, help='for example v5e:16x16')
  count = command_line.whole(1, command_line.MOST)
  parser.add_argument('--slices', type=count, default=1, help='of that topology')
  parser.add_argument('--spot', action='store_true', help='cheap, may be taken back')
  parser.add_argument('--setup', default='', help='shell for every host, run first')
  parser.add_argument(
    '--create-flag', action='append', default=[], help='for gcloud, can be repeated'
  )
  parser.add_argument('--attempts', type=count, default=100, help='times to ask')
  parser.add_argument('--keep', action='store_true', help='the machines, in the end')
  return parser


def _resource(asked: argparse.Namespace) -> queued_resource.QueuedResource:
  command_line.check_name(asked.name)
  spot = ('--spot',) if asked.spot else ()
  return queued_resource.QueuedResource(
    name=asked.name,
    project=asked.project,
    zone=asked.zone,
    pod=pods.find(asked.topology, asked.slices),
    create_flags=(*spot, *asked.create_flag),
  )


def _stages(
  resource: queued_resource.QueuedResource,
  archive: str,
  *,
  setup: str,
  command: Sequence[str],
) -> list[list[list[str]]]:
  """Stages on new machines: copy, install, run the command."""
  scripts = queued_resource.install(archive, setup), queued_resource.start(command)
  copies = [resource.copy(node, archive) for node in resource.nodes]
  return [
    copies,
    *([resource.on(node, script) for node in resource.nodes] for script in scripts),
  ]


def _print(
  resource: queued_resource.QueuedResource,
  archive: str,
  stages: Sequence[Sequence[Sequence[str]]],
  *,
  keep: bool,
) -> None:
  folder = str(pathlib.Path(archive).parent)
  pack = ['mkdir', '--mode=700', folder], queued_resource.pack(archive)
  first = *pack, resource.describe(), resource.create()
  last = [] if keep else [resource.delete()]
  last.append(['rm', '--recursive', folder])
  for command in (*first, *(each for stage in stages for each in stage), *last):
    print(command_line.shown(command))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
