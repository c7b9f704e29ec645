r"""Trains on TPU VMs: asks for slices, runs a command on all hosts, and stays with it.

  python -m launch.tpu_vm --name=run1 --project=PROJECT --zone=us-west4-a \
    --topology=v5e:16x16 --slices=2 --spot --setup='MOUNT' -- \
    python -m transfusion_jax.train --distributed --config=FILE --workdir=/runs/run1

Asks for a queued resource, waits for it, copies this code to every host, installs it,
and runs the command. Where Google takes the machines back, or the command ends with
42, they are given back and asked for again, and the command goes on from its last
checkpoint: --workdir is a folder that outlives the machines, which `--setup` mounts.
Any other failure while the machines are there ends it, with the command's exit code.
A broken connection does not: the hosts go on, and are listened to again, also by the
same launch started anew. Ctrl-C has the run save and stop. In the end the machines are
given back, unless `--keep`. `--dry-run` prints the commands in order.
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
"""Seconds between looks at the commands, at the state of the machines, and until the
state is known to be that of machines that stay: a run ends before Google says why."""

ACTIVE, FAILED, SUSPENDED = 'ACTIVE', 'FAILED', 'SUSPENDED'
ABSENT, UNKNOWN = 'ABSENT', 'UNKNOWN'
"""Not said by gcloud: there is no such request, and gcloud could not say."""

_LOST, _INTERRUPTED = 255, 130
"""Exit codes of ssh when the connection breaks, and of a run that a person stopped."""


class Keeper:
  """Gets machines, runs commands on all of them, and gets new ones in their place."""

  def __init__(self, resource: queued_resource.QueuedResource, attempts: int):
    """Does nothing yet.

    Args:
      resource: what to ask for.
      attempts: how often in all.
    """
    self._resource, self._attempts = resource, attempts
    self.trouble = ''  # why gcloud did not answer

  def run(self, stages: Sequence[Sequence[Sequence[str]]]) -> int:
    """Runs the last stage to its end, on as many machines as it takes; its exit code.

    Args:
      stages: one after the other, each a command for every slice, to run at once.
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
    """What Google says of the request."""
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
    """Ends what is being paid for."""
    if subprocess.run(self._resource.delete(), check=False).returncode:
      say(f'expected {self._resource.name} to be deleted, which failed; do it by hand')

  def stop(self) -> None:
    """Has what runs save and end; every host hears of it from the first."""
    for node in self._resource.nodes:
      subprocess.run(self._resource.on(node, queued_resource.stop()), check=False)

  def _obtain(self, *, again: bool) -> bool:
    """Waits for machines; whether there are any, for a first request may be wrong."""
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
    """One stage after the other, until one fails; its exit code."""
    *before, last = stages
    for commands in before:
      code = self._together(commands)
      if code:  # of a tool of the shell, which does not know ours
        return code if code == _LOST else 1
    return self._together(last)

  def _together(self, commands: Sequence[Sequence[str]]) -> int:
    """Runs commands at once; the first failure's exit code, or 0 when all are done."""
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
    """Whether Google has taken the machines, which it may say a while later."""
    say(f'ended on its own; are the machines still there in {SETTLE:.0f} seconds?')
    end = time.monotonic() + SETTLE
    while (state := self.state()) in (ACTIVE, UNKNOWN) and time.monotonic() < end:
      time.sleep(POLL)
    return state not in (ACTIVE, UNKNOWN)


def say(line: str) -> None:
  """Tells the person at the launcher."""
  print(f'launch.tpu_vm: {line}', file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
  """Parses the command line and runs; the exit code."""
  parser = _parser()
  asked = parser.read(argv)
  with parser.user_errors():
    resource = _resource(asked)
    resource.create()
    command_line.check_remote(asked.command, resource.pod.hosts)
  # Of this user alone: where anybody may write, a link could lie in its place.
  with tempfile.TemporaryDirectory() as folder:
    archive = str(pathlib.Path(folder) / f'{asked.name}.tgz')
    stages = _stages(resource, archive, asked.setup, asked.command)
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
  """Runs all stages, and gives the machines back however that ends."""
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
  setup: str,
  command: Sequence[str],
) -> list[list[list[str]]]:
  """What to run on new machines: copy, install, the command."""
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
