"""What is computed once for several trials, and when a trial has to wait for it."""

from transfusion_jax.sweeping import sharing

BASE, WEIGHT, GUIDANCE = 0, 1, 7
"""Trials: unchanged, another training, another way of measuring."""


def test_trials_that_are_measured_otherwise_begin_with_a_copy(ablations, places, leave):
  shared = sharing.Sharing(ablations, places)
  leave(BASE, loss=1.0, score=0.5)
  assert shared.prepare(GUIDANCE, running=(), done={BASE})
  there = {
    path.relative_to(places[GUIDANCE].root).as_posix()
    for path in places[GUIDANCE].root.rglob('*')
    if path.is_file()
  }
  trained = {'checkpoints/100/state', 'config.json', 'metrics.jsonl'}
  assert there == trained | {'autoencoder/latents.json'}


def test_others_begin_with_the_autoencoder_alone(ablations, places, leave):
  shared = sharing.Sharing(ablations, places)
  leave(BASE, loss=1.0, score=0.5)
  assert shared.prepare(WEIGHT, running=(), done={BASE})
  there = [path.name for path in places[WEIGHT].root.rglob('*') if path.is_file()]
  assert there == ['latents.json']


def test_a_trial_waits_for_what_another_is_at(ablations, places, leave):
  shared = sharing.Sharing(ablations, places)
  assert shared.prepare(BASE, running=(), done=())
  assert not shared.prepare(WEIGHT, running={BASE}, done=())
  leave(BASE, loss=1.0, score=0.5)  # the autoencoder is there, and training goes on
  assert shared.prepare(WEIGHT, running={BASE}, done=())
  assert not shared.prepare(GUIDANCE, running={BASE}, done=())
  assert not places[GUIDANCE].root.exists()
  assert shared.prepare(GUIDANCE, running=(), done={BASE})


def test_nobody_waits_for_a_trial_that_is_not_at_work(ablations, places):
  shared = sharing.Sharing(ablations, places)
  assert shared.prepare(GUIDANCE, running=(), done=())
  assert not places[GUIDANCE].root.exists()  # it trains by itself


def test_what_was_begun_is_left_as_it_is(ablations, places, leave):
  shared = sharing.Sharing(ablations, places)
  leave(BASE, loss=1.0, score=0.5)
  places[GUIDANCE].root.mkdir()
  assert shared.prepare(GUIDANCE, running=(), done={BASE})
  assert not list(places[GUIDANCE].root.iterdir())


def test_half_a_copy_is_made_again(ablations, places, leave):
  shared = sharing.Sharing(ablations, places)
  leave(BASE, loss=1.0, score=0.5)
  part = places[WEIGHT].root.with_name('001.part')
  part.mkdir()
  (part / 'half').touch()
  assert shared.prepare(WEIGHT, running=(), done={BASE})
  assert not part.exists()
  assert [path.name for path in places[WEIGHT].root.iterdir()] == ['autoencoder']
