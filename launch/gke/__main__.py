r"""Prints the JobSet manifest of a run, for GKE clusters with TPUs.

  python -m launch.gke --name=run1 --topology=v5e:16x16 --slices=2 --image=IMAGE \
    --claim=runs:/runs -- \
    python -m transfusion_jax.train --distributed --config=FILE --workdir=/runs/run1 |
    kubectl apply -f -

The command only prints, with `--dry-run` or without, and does not contact the cluster.
The volume claim must exist in the cluster, and all hosts must be able to write to it.
"""

import sys
from collections.abc import Sequence

import yaml

from launch import command_line, pods
from launch.gke import job_set

RESTARTS = 3
"""Restarts after failures: a host that dies can make others fail."""


def main(argv: Sequence[str]) -> int:
  """Parses the command line and prints the manifest; returns the exit code."""
  usage = '--name=NAME --topology=CHIP:AxB --image=IMAGE --claim=NAME:PATH [...]'
  parser = command_line.Parser('launch.gke', __doc__, usage)
  parser.add_cluster(RESTARTS)
  parser.add_argument('--claim', required=True, help='a volume, and where to mount it')
  asked = parser.read(argv)
  with parser.user_errors():
    pod = pods.in_cluster(asked)
    made = job_set.make(
      name=asked.name,
      pod=pod,
      image=asked.image,
      command=asked.command,
      claim=asked.claim,
      restarts=asked.restarts,
      grace=asked.grace,
      spot=asked.spot,
    )
  print(yaml.safe_dump(made, sort_keys=False, width=1000), end='')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
