"""The commands that make machines of TPU VMs run a program, as lists of words.

A queued resource asks Google for slices and holds them, one node for each. Nothing is
run here. Nodes are spoken to one by one (`tpu-vm ssh`): asked for all of a queued
resource at once, gcloud starts a command on 64 machines, and on the next when those are
done, while a run only starts when all have.
"""

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence

from launch import pods

ROOT = pathlib.Path(__file__).parents[1]
"""The code that is copied to the machines."""

EXTRAS = 'tpu,text,data'
"""What `setup.py` calls the packages that a run on TPUs needs."""

_UV = 'https://astral.sh/uv/install.sh'
"""Brings a Python of its own: that of the machines is older than we need."""

_RUNS = '{ kill -0 $(cat ~/run.pid); } 2>/dev/null'
"""Whether the command that was started last is at work."""


@dataclasses.dataclass(frozen=True)
class QueuedResource:
  """What is asked for, and how gcloud is told.

  Attributes:
    name: of the request, and of its nodes.
    project: who pays.
    zone: where.
    pod: how many chips.
    create_flags: for gcloud when it asks, beyond what follows from these.
  """

  name: str
  project: str
  zone: str
  pod: pods.Pod
  create_flags: tuple[str, ...]

  @property
  def nodes(self) -> list[str]:
    """The name of every slice."""
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
    """Asks; the machines come later.

    Raises:
      ValueError: gcloud cannot ask for this pod.
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
    """Gives all machines back, and the request with them."""
    return self._request('delete', '--force', '--quiet')

  def copy(self, node: str, file: str) -> list[str]:
    """Puts a file into the home folder of every machine of a node."""
    return self._node('scp', file, f'{node}:')

  def on(self, node: str, script: str) -> list[str]:
    """Runs a line of shell on every machine of a node."""
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
  """Packs the code, less what `.dockerignore` names."""
  names = [f'--file={archive}', f'--exclude-from={ROOT / ".dockerignore"}']
  return ['tar', '--create', '--gzip', *names, f'--directory={ROOT}', '.']


def install(archive: str, setup: str) -> str:
  """A line of shell that makes a machine ready, unless it is at work.

  Args:
    archive: that was copied.
    setup: a line of shell to begin with, such as one that mounts a share; or nothing.
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
  """A line of shell that runs a command in the copied code, and says what it says.

  The command does not depend on the connection: where that breaks, the same line again
  finds it at work and goes on listening. Its exit code becomes that of the line.
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
  """A line of shell that has the started command save and end, as Ctrl-C would."""
  return (
    f'if {_RUNS}; then kill -INT -- -$(cat ~/run.pid); fi; '
    f'while {_RUNS}; do sleep 1; done'
  )
