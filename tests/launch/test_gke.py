"""JobSets, beside files of what they were, and beside what Kubernetes takes."""

import copy
import json
import pathlib
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

from launch.gke import __main__ as gke

HERE = pathlib.Path(__file__).parent
SCHEMA = json.loads((HERE / 'job_set_schema.json').read_text())
KUBERNETES = '1.33'
FLAGS = ('--name=run1', '--image=registry.example/transfusion:1', '--claim=runs:/runs')
TRAIN = ('python', '-m', 'transfusion_jax.train', '--distributed')
COMMAND = (*TRAIN, '--config=configs/transfusion_7b.py', '--workdir=/runs/run1')

CASES = {
  'v5e_two_slices': ('--topology=v5e:16x16', '--slices=2'),
  'v5p_spot': ('--topology=v5p:8x8x8', '--spot', '--restarts=0', '--grace=60'),
  'v6e_one_chip': ('--topology=v6e:1x1',),
}


def printed(capsys, *flags: str) -> str:
  assert gke.main([*FLAGS, *flags, '--', *COMMAND]) == 0
  return capsys.readouterr().out


def validate(manifest: dict) -> None:
  """The JobSet by a schema of our own, the Jobs in it by that of Kubernetes."""
  jsonschema.validate(manifest, SCHEMA)
  for each in manifest['spec']['replicatedJobs']:
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'a'}}
    kubernetes_validate.validate({**job, **each['template']}, KUBERNETES, strict=True)


@pytest.mark.parametrize('case', CASES)
def test_manifests_stay_as_they_were(capsys, case):
  text = printed(capsys, *CASES[case])
  assert text == (HERE / 'golden' / f'{case}.yaml').read_text()
  assert text == printed(capsys, '--dry-run', *CASES[case])


@pytest.mark.parametrize('case', CASES)
def test_manifests_are_what_kubernetes_takes(capsys, case):
  validate(yaml.safe_load(printed(capsys, *CASES[case])))


def paths(node, *before) -> list[tuple]:
  """Where every field stands, less those that a user may name."""
  found = []
  items = node.items() if isinstance(node, dict) else enumerate(node)
  for key, value in items:
    if isinstance(node, dict):
      found.append((*before, key))
    named = key not in ('annotations', 'nodeSelector', 'limits')
    if named and isinstance(value, dict | list):
      found += paths(value, *before, key)
  return found


def test_no_field_can_be_misspelt(capsys):
  manifest = yaml.safe_load(printed(capsys, *CASES['v5e_two_slices']))
  fields = {path[-1]: path for path in paths(manifest)}.values()
  assert len(fields) > 40
  refused = (jsonschema.ValidationError, kubernetes_validate.ValidationError)
  for *above, name in fields:
    broken = node = copy.deepcopy(manifest)
    for key in above:
      node = node[key]
    node[f'{name}x'] = node.pop(name)
    with pytest.raises(refused):
      validate(broken)


def outcome(manifest: dict, code: int | None) -> str:
  """What happens when a pod ends with a code, or with a node that is taken away.

  By the rules of Kubernetes and JobSet: the first rule that matches decides, of the Job
  about its pods and of the JobSet about its Jobs.
  """
  job = manifest['spec']['replicatedJobs'][0]['template']['spec']
  assert job['backoffLimit'] == 0
  reason, message = (
    'BackoffLimitExceeded',
    'Job has reached the specified backoff limit',
  )
  for index, rule in enumerate(job['podFailurePolicy']['rules']):
    matching = f'matching {rule["action"]} rule at index {index}'
    if 'onPodConditions' in rule and code is None:
      said = f'Pod a/p has condition DisruptionTarget {matching}'
    elif code is not None and code in rule.get('onExitCodes', {}).get('values', ()):
      said = (
        f'Container train for pod default/p failed with exit code {code} {matching}'
      )
    else:
      continue
    assert rule['action'] == 'FailJob'
    reason, message = 'PodFailurePolicy', said
    break
  for rule in manifest['spec']['failurePolicy']['rules']:
    patterns = rule.get('onJobFailureMessagePatterns', [''])
    matched = any(re.search(each, message) for each in patterns)
    if reason in rule['onJobFailureReasons'] and matched:
      return rule['action']
  return 'RestartJobSet'


@pytest.mark.parametrize(
  ('code', 'action'),
  [
    (42, 'RestartJobSetAndIgnoreMaxRestarts'),
    (None, 'RestartJobSetAndIgnoreMaxRestarts'),
    (2, 'FailJobSet'),
    (1, 'RestartJobSet'),
    (134, 'RestartJobSet'),
    (255, 'RestartJobSet'),
  ],
)
def test_what_an_exit_code_leads_to(capsys, code, action):
  manifest = yaml.safe_load(printed(capsys, *CASES['v5e_two_slices']))
  assert outcome(manifest, code) == action
