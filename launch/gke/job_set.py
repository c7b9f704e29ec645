"""A run as a JobSet: one Job for every slice, one pod for every host of it.

How it ends depends on the exit code of the pod that ends first. 42, or a node that is
taken away: all pods are made anew, however often. 2, the user's configuration: the
JobSet has failed. Anything else: all pods are made anew, `restarts` times. JobSet tells
the first two apart by what Kubernetes says of the Job (from JobSet 0.10.1 on).
"""

from collections.abc import Sequence
from typing import Any

from launch import command_line, pods

CONTAINER = 'train'
_REASON = 'PodFailurePolicy'


def make(
  *,
  name: str,
  pod: pods.Pod,
  image: str,
  command: Sequence[str],
  claim: str,
  restarts: int,
  grace: int,
  spot: bool,
) -> dict[str, Any]:
  """The manifest.

  Args:
    name: of the JobSet, and of its headless service.
    pod: how many chips.
    image: with the code and what it needs.
    command: program and arguments, the same for all hosts.
    claim: `NAME:PATH`, a volume claim of the cluster and where all hosts mount it.
    restarts: that count.
    grace: seconds between asking a pod to end and ending it.
    spot: whether its nodes may be taken away.

  Raises:
    ValueError: the claim is written in another way.
  """
  slices = {
    'name': 'slice',
    'replicas': pod.topology.slices,
    'template': {'spec': _job(_pod(pod, image, command, claim, grace, spot), pod)},
  }
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': {
      'name': name,
      'annotations': {  # the hosts of a slice are those of one node pool
        'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'
      },
    },
    'spec': {
      'network': {'enableDNSHostnames': True, 'subdomain': name},
      'failurePolicy': {
        'maxRestarts': restarts,
        'restartStrategy': 'BlockingRecreate',  # never two that write one folder
        'rules': _rules(),
      },
      'replicatedJobs': [slices],
    },
  }


def _rules() -> list[dict[str, Any]]:
  """What follows from a Job that failed; where none matches, a restart that counts."""
  code = command_line.USER_ERROR
  return [
    {
      'name': 'configuration',
      'action': 'FailJobSet',
      'onJobFailureReasons': [_REASON],
      'onJobFailureMessagePatterns': [f'failed with exit code {code} '],
    },
    {
      'name': 'preempted',
      'action': 'RestartJobSetAndIgnoreMaxRestarts',
      'onJobFailureReasons': [_REASON],
    },
  ]


def _job(template: dict[str, Any], pod: pods.Pod) -> dict[str, Any]:
  codes = command_line.USER_ERROR, command_line.RETRY
  rules = [
    {
      'action': 'FailJob',
      'onExitCodes': {'containerName': CONTAINER, 'operator': 'In', 'values': [code]},
    }
    for code in codes
  ]
  taken = {'type': 'DisruptionTarget', 'status': 'True'}
  return {
    'completionMode': 'Indexed',
    'parallelism': pod.hosts_per_slice,
    'completions': pod.hosts_per_slice,
    'backoffLimit': 0,  # a host alone is of no use: the JobSet restarts all
    'podFailurePolicy': {
      'rules': [*rules, {'action': 'FailJob', 'onPodConditions': [taken]}]
    },
    'template': {'spec': template},
  }


def _pod(
  pod: pods.Pod, image: str, command: Sequence[str], claim: str, grace: int, spot: bool
) -> dict[str, Any]:
  volume, mount = _claim(claim)
  only_spot = {'cloud.google.com/gke-spot': 'true'} if spot else {}
  names = ['google.com/tpu', *only_spot]
  return {
    'restartPolicy': 'Never',
    'terminationGracePeriodSeconds': grace,
    'hostNetwork': True,  # between slices it is the faster one
    'dnsPolicy': 'ClusterFirstWithHostNet',
    'nodeSelector': {
      'cloud.google.com/gke-tpu-accelerator': pod.family.label,
      'cloud.google.com/gke-tpu-topology': pod.shape,
      **only_spot,
    },
    'tolerations': [{'key': name, 'operator': 'Exists'} for name in names],
    'containers': [
      {
        'name': CONTAINER,
        'image': image,
        'command': list(command),
        'resources': {'limits': {'google.com/tpu': pod.chips_per_host}},
        'securityContext': {'privileged': True},  # the chips are files of the host
        'volumeMounts': [
          {'name': 'runs', 'mountPath': mount},
          {'name': 'shared-memory', 'mountPath': '/dev/shm'},
        ],
      }
    ],
    'volumes': [
      {'name': 'runs', 'persistentVolumeClaim': {'claimName': volume}},
      {'name': 'shared-memory', 'emptyDir': {'medium': 'Memory'}},
    ],
  }


def _claim(text: str) -> tuple[str, str]:
  name, _, path = text.partition(':')
  if not name or not path.startswith('/'):
    raise ValueError(
      f'expected a volume claim and where to mount it, such as runs:/runs, found '
      f'{text!r}; change --claim'
    )
  return name, path
