"""A run that is killed again and again ends with the bits of one that never was."""

import pathlib
import random
import signal

import pytest

from benchmarks import small_run, survival

pytestmark = pytest.mark.process


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  """Where all runs lie, and share an autoencoder and compiled programs."""
  return tmp_path_factory.mktemp('survival')


def test_kills_leave_no_trace(folder):
  met = survival.kills(folder, count=3, seed=1)
  assert sum(met.values()) == 3
  assert met['first step'] == 1


def test_a_deleted_work_directory_is_told_and_training_goes_on(folder):
  trial = small_run.Trial(folder / 'lost')
  survival.lose_folder(trial, after=4)
  said = trial.said()
  assert 'had lost config.json, contents.json' in said
  assert trial.saved()[-1] == small_run.STEPS
  assert trial.lines()[-1]['step'] == small_run.STEPS


def test_a_signal_while_it_evaluates_does_not_wait_for_the_scores(folder):
  trial = small_run.Trial(folder / 'asked')
  rng = random.Random(0)
  met, _ = survival.stop_once(trial, rng, 'evaluation', number=signal.SIGTERM)
  assert met == 'evaluation'
  assert trial.saved()[-1] == small_run.EVALUATED
  assert 'stopped and saved' in trial.said().splitlines()[-1]
  kept = trial.folder / 'run' / 'evaluation.jsonl'
  assert not kept.exists() or '"name": "scenes"' not in kept.read_text()
