"""The ledger: what survives of it, whose it is, and which sweep it belongs to."""

import dataclasses

import pytest

from transfusion_jax.sweeping import ledger as ledger_lib


def record(trial: int, status: str, **changes) -> ledger_lib.Record:
  values = {'overrides': {}, 'exit_code': None, 'seconds': None, 'scores': {}}
  return ledger_lib.Record(trial=trial, status=status, **{**values, **changes})


def test_records_come_back(tmp_path):
  written = [
    record(0, 'running', overrides={'a.b': 1e-5}),
    record(0, 'done', exit_code=0, seconds=0.125, scores={'loss': 0.1}),
    record(1, 'failed', exit_code=1),
    record(1, 'skipped', exit_code=139),
  ]
  with ledger_lib.Ledger(tmp_path) as ledger:
    for each in written[:2]:
      ledger.add(each)
  with ledger_lib.Ledger(tmp_path) as ledger:
    assert ledger.records == written[:2]
    for each in written[2:]:
      ledger.add(each)
  found = ledger_lib.read(tmp_path / 'ledger.jsonl')
  assert found == written
  assert ledger_lib.done(found) == {0}
  assert [ledger_lib.failures(found, trial) for trial in (0, 1)] == [0, 2]
  assert ledger_lib.last(found)[1].exit_code == 139


def test_half_a_line_is_dropped_and_written_over(tmp_path):
  path = tmp_path / 'ledger.jsonl'
  with ledger_lib.Ledger(tmp_path) as ledger:
    for trial in range(2):
      ledger.add(record(trial, 'done'))
  whole = path.read_bytes()
  first = whole.index(b'\n') + 1
  for cut in (first, first + 1, len(whole) - 1):
    path.write_bytes(whole[:cut])
    with ledger_lib.Ledger(tmp_path) as ledger:
      assert [each.trial for each in ledger.records] == [0]
      ledger.add(record(1, 'done'))
    assert path.read_bytes() == whole


def test_one_sweep_at_a_time(tmp_path):
  with (
    ledger_lib.Ledger(tmp_path),
    pytest.raises(ValueError, match='one at work'),
  ):
    ledger_lib.Ledger(tmp_path)
  ledger_lib.Ledger(tmp_path).__exit__()


def test_another_sweep_is_refused(tmp_path, ablations):
  def begin(trials):
    with ledger_lib.Ledger(tmp_path) as ledger:
      ledger.begin(trials)

  begin(ablations)
  begin(ablations)
  other = dataclasses.replace(ablations[1], overrides={'objective.image_weight': 2.0})
  with pytest.raises(ValueError, match=r'trials\.001: expected .*1\.0.* found .*2\.0'):
    begin([ablations[0], other, *ablations[2:]])
  with pytest.raises(ValueError, match=r'trials\.008'):
    begin(ablations[:-1])
  run = dataclasses.replace(ablations[0].run, seed=1)
  with pytest.raises(ValueError, match=r'first\.seed: expected 0, found 1'):
    begin([dataclasses.replace(ablations[0], run=run), *ablations[1:]])
  begin(ablations)
