"""Commands that create TPU VMs and run a program on them, as lists of words.

A queued resource requests slices and holds them, as one node each. This module runs
nothing. Commands are per node (`tpu-vm ssh`): for a whole queued resource gcloud starts
a command on 64 machines, and on the next ones when those are done, but a run only
starts when all machines have.
"""

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence

from launch import pods

ROOT = pathlib.Path(__file__).parents[1]
"""Folder of the code that is copied to the machines."""

EXTRAS = 'tpu,text,data'
"""Extras of the Python package that a run on TPUs needs."""

_UV = 'https://astral.sh/uv/install.sh'
"""Installer of uv, which brings a newer Python than that of the machines."""

_RUNS = '{ kill -0 $(cat ~/run.pid); } 2>/dev/null'
"""Shell condition: the command that was started last is running."""


@dataclasses.dataclass(frozen=True)
class QueuedResource:
  """Request for slices, and its gcloud commands.

  Attributes:
    name: name of the request and of its nodes.
    project: Google Cloud project.
    zone: Google Cloud zone.
    pod: slices to request.
    create_flags: additional flags of gcloud for the request.
  """

  name: str
  project: str
  zone: str
  pod: pods.Pod
  create_flags: tuple[str, ...]

  @property
  def nodes(self) -> list[str]:
    """Names of the nodes, one for every slice."""
    slices = self.pod.topology.slices
    return (
      [self.name]
      if slices == 1
      else [f'{self.name}-{index}' for index in range(slices)]
    )

  def describe(self) -> list[str]:
    """Prints the state of the request."""
    return self._request('describe', '--format=value(state.state)')

  def create(self) -> list[str]:
    """Requests the machines, which become ready later.

    Raises:
      ValueError: gcloud cannot request this pod.
    """
    slices = self.pod.topology.slices
    nodes = (
      [f'--node-id={self.name}']
      if slices == 1
      else [f'--node-count={slices}', f'--node-prefix={self.name}']
    )
    return self._request(
      'create',
      f'--accelerator-type={self.pod.accelerator_type}',
      f'--runtime-version={self.pod.family.runtime}',
      *nodes,
      *self.create_flags,
    )

  def delete(self) -> list[str]:
    """Deletes the request and all its machines."""
    return self._request('delete', '--force', '--quiet')

  def copy(self, node: str, file: str) -> list[str]:
    """Copies a file to the home folder of every machine of a node."""
    return self._node('scp', file, f'{node}:')

  def on(self, node: str, script: str) -> list[str]:
    """Runs a shell command on every machine of a node."""
    alive = '--ssh-flag=-oServerAliveInterval=30'
    return self._node('ssh', node, alive, f'--command={script}')

  def _request(self, verb: str, *flags: str) -> list[str]:
    words = ['gcloud', 'compute', 'tpus', 'queued-resources', verb, self.name]
    return [*words, *self._where(), *flags]

  def _node(self, verb: str, *words: str) -> list[str]:
    start = ['gcloud', 'compute', 'tpus', 'tpu-vm', verb]
    return [*start, *words, '--worker=all', *self._where()]

  def _where(self) -> list[str]:
    return [f'--project={self.project}', f'--zone={self.zone}']


def pack(archive: str) -> list[str]:
  """Packs the code, except the files in `.dockerignore`."""
  names = [f'--file={archive}', f'--exclude-from={ROOT / ".dockerignore"}']
  return ['tar', '--create', '--gzip', *names, f'--directory={ROOT}', '.']


def install(archive: str, setup: str) -> str:
  """Shell command that installs the code on a machine, unless a run is active there.

  Args:
    archive: archive that was copied.
    setup: shell command to run first, for example to mount a share; may be empty.
  """
  packed = shlex.quote(pathlib.PurePath(archive).name)
  steps = (
    setup,
    'rm -rf ~/transfusion && mkdir ~/transfusion',
    f'tar -xzf ~/{packed} -C ~/transfusion',
    f'curl -LsSf {_UV} | sh',
    '~/.local/bin/uv venv --quiet --clear --python=3.12 ~/environment',
    '~/.local/bin/uv pip install --quiet --python ~/environment/bin/python '
    f'--editable "$HOME/transfusion[{EXTRAS}]"',
  )
  return f'if {_RUNS}; then exit 0; fi; {" && ".join(filter(None, steps))}'


def start(command: Sequence[str]) -> str:
  """Shell command that runs a command in the copied code and prints its output.

  The command survives a broken connection: the same line then finds it running and
  continues to print its output. The line has the exit code of the command.
  """
  path = 'PATH=~/environment/bin:$PATH'
  own = 'setsid env --default-signal=INT'  # which & would have it ignore
  kept = f'trap : INT TERM; {path}; {shlex.join(command)}; echo $? >~/run.code'
  return (
    f'if {_RUNS}; then echo "still at work"; else cd ~/transfusion && '
    f': >~/run.log && rm -f ~/run.code && {{ {own} bash -c {shlex.quote(kept)} '
    '>~/run.log 2>&1 </dev/null & echo $! >~/run.pid; }; fi; '
    'tail --pid=$(cat ~/run.pid) --lines=+1 --follow ~/run.log; exit $(cat ~/run.code)'
  )


def stop() -> str:
  """Shell command that makes the started command save and end, like Ctrl-C."""
  return (
    f'if {_RUNS}; then kill -INT -- -$(cat ~/run.pid); fi; '
    f'while {_RUNS}; do sleep 1; done'
  )
