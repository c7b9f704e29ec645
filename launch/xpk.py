r"""Runs a command on a GKE cluster with TPUs created by xpk (`pip install xpk`).

  python -m launch.xpk --name=run1 --project=PROJECT --zone=ZONE --cluster=CLUSTER \
    --topology=v5e:16x16 --slices=2 --image=IMAGE --storage=runs -- \
    python -m transfusion_jax.train --distributed --config=FILE --workdir=/runs/run1

By default xpk never restarts a run, and gives it 30 seconds to save. Here exit code 42,
or a signal, restarts it; 1 and 2 end it. xpk counts all restarts alike, so that the
limit is high. `--dry-run` prints the command and the manifest that xpk would apply.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from launch import command_line, pods

RESTARTS = 1000
"""Maximum number of restarts, preemptions included: xpk does not distinguish them."""

LATE = 5
"""Seconds until the shell in which xpk starts a run forwards a signal."""


def create(asked: argparse.Namespace, pod: pods.Pod) -> list[str]:
  """Command that creates the workload.

  Args:
    asked: flags by name.
    pod: slices to run on.
  """
  where = ('cluster', 'project', 'zone')
  flags = {
    'workload': asked.name,
    **{name: getattr(asked, name) for name in where},
    'tpu-type': f'{pod.family.prefix}-{pod.shape}',
    'num-slices': pod.topology.slices,
    'docker-image': asked.image,
    'storage': asked.storage,
    'command': command_line.shown(asked.command),
    'max-restarts': asked.restarts,
    'termination-grace-period-seconds': asked.grace + LATE,
  }
  words = [f'--{name}={value}' for name, value in flags.items()]
  return ['xpk', 'workload', 'create', *words, *(['--spot'] if asked.spot else [])]


def main(argv: Sequence[str]) -> int:
  """Parses the command line and runs xpk; returns the exit code."""
  parser = _parser()
  asked = parser.read(argv)
  with parser.user_errors():
    pod = pods.in_cluster(asked)
  parser.need('xpk', 'pip install xpk, in an environment of its own, or use launch.gke')
  command = create(asked, pod)
  return _print(command) if asked.dry_run else subprocess.run(command).returncode


def _print(command: Sequence[str]) -> int:
  """Prints a command, and the manifest that xpk would apply to the cluster."""
  with tempfile.TemporaryDirectory() as folder:
    manifest = pathlib.Path(folder) / 'manifest.yaml'
    only = ('--dry-run', '--skip-validation', f'--output-manifest-file={manifest}')
    done = subprocess.run(
      [*command, *only], capture_output=True, text=True, check=False
    )
    if done.returncode or not manifest.exists():
      print(done.stdout + done.stderr, file=sys.stderr)
      return done.returncode or 1
    print(f'# {command_line.shown(command)}')
    print(manifest.read_text())
  return 0


def _parser() -> command_line.Parser:
  usage = '--name=NAME --cluster=CLUSTER --topology=CHIP:AxB --image=IMAGE [...]'
  parser = command_line.Parser('launch.xpk', __doc__, usage)
  parser.add_cluster(RESTARTS)
  parser.add_argument('--project', required=True, help='of Google Cloud')
  parser.add_argument('--zone', required=True, help='for example us-west4-a')
  parser.add_argument('--cluster', required=True, help='that xpk made')
  parser.add_argument('--storage', required=True, help='that xpk attached, for runs')
  return parser


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
