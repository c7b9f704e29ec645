"""JobSet of a run: one Job for every slice, one pod for every host of a slice.

The exit code of the first pod that ends decides. 42, or a preempted node: all pods are
recreated, without limit. 2, an error in the user's configuration: the JobSet fails.
Otherwise all pods are recreated, up to `restarts` times. JobSet distinguishes the first
two cases by the failure reason of the Job (from JobSet 0.10.1 on).
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
  """Creates the manifest.

  Args:
    name: name of the JobSet and of its headless service.
    pod: slices to run on.
    image: container image with the code and its dependencies.
    command: program and arguments, the same for all hosts.
    claim: `NAME:PATH`: a volume claim of the cluster, and its mount point on all hosts.
    restarts: maximum number of restarts after failures.
    grace: seconds from SIGTERM to SIGKILL when a pod is ended.
    spot: True for nodes that may be preempted.

  Raises:
    ValueError: the claim is not of the form `NAME:PATH`.
  """
  host = _pod(pod, image=image, command=command, claim=claim, grace=grace, spot=spot)
  slices = {
    'name': 'slice',
    'replicas': pod.topology.slices,
    'template': {'spec': _job(host, pod)},
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
  """Rules for failed Jobs; if none matches, a restart that counts."""
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
  pod: pods.Pod,
  *,
  image: str,
  command: Sequence[str],
  claim: str,
  grace: int,
  spot: bool,
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
