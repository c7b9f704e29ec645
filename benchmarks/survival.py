r"""Kills and damages a small run in many ways, and counts what it survives.

  python -m benchmarks.survival kills --count=20
  python -m benchmarks.survival flips --count=200
  python -m benchmarks.survival soak --minutes=30
  python -m benchmarks.survival hosts

An interrupted run must end with the losses, batches and state of an uninterrupted one,
to the last bit. `kills` sends SIGKILL while the run compiles, steps, saves, evaluates
and takes its first step. `flips` changes one random bit of a random file of the newest
checkpoint and checks from which step the run would resume. `soak` does all of these in
turn, with SIGTERM and other numbers of devices too, for a given time. `hosts` stops a
run every few steps and resumes it with another number of processes.

`benchmarks/small_run.py` defines the run. All files are in a temporary folder, or in
`--folder`.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable

from benchmarks import small_run

HOSTS = ((2, 4), (4, 2), (8, 1), (1, 2))
"""Numbers of processes and devices per process, in order."""

ALIKE = 1e-5


def moments(
  rng: random.Random,
) -> dict[str, Callable[[small_run.Trial, int, float], bool]]:
  """Conditions for a signal, given a trial, its lines at the start, seconds since."""
  late, more = rng.uniform(2.0, 8.0), rng.randint(1, 3)

  def begun(trial: small_run.Trial, had: int, seconds: float) -> bool:
    return 'transfusion:' in trial.said()[trial.heard :]

  def saving(trial: small_run.Trial, had: int, seconds: float) -> bool:
    return bool({*trial.checkpoints.glob('*-tmp*')} - trial.left)

  def quiet(trial: small_run.Trial, had: int, seconds: float) -> bool:
    lines = trial.lines()
    return len(lines) > had and lines[-1]['step'] % small_run.EVALUATED == 0

  return {
    'first step': begun,
    'start or compile': lambda trial, had, seconds: seconds > late,
    'step': lambda trial, had, seconds: len(trial.lines()) >= had + more,
    'save': saving,
    'evaluation': quiet,
  }


def stop_once(
  trial: small_run.Trial, rng: random.Random, moment: str, *, number: int
) -> tuple[str, float]:
  """Starts a run and sends it a signal at a moment.

  Returns:
    The moment, or 'finished' if the run ended before; and seconds from signal to end.
  """
  when, had = moments(rng)[moment], len(trial.lines())
  process, began = trial.start(), time.monotonic()
  while process.poll() is None:
    if when(trial, had, time.monotonic() - began):
      process.send_signal(number)
      break
    time.sleep(0.002)
  began = time.monotonic()
  code = process.wait()
  expected = {signal.SIGTERM: 42, signal.SIGKILL: -9}[signal.Signals(number)]
  early = moment == 'start or compile' and code == -number  # Python itself was starting
  if code not in (0, expected) and not early:
    raise RuntimeError(f'exit code {code}: {trial.said()[-2000:]}')
  return moment if code else 'finished', time.monotonic() - began


def kills(folder: pathlib.Path, *, count: int, seed: int) -> dict[str, int]:
  """Kills a run repeatedly; returns the number of kills by moment.

  Raises:
    AssertionError: it did not end like the uninterrupted run.
  """
  rng = random.Random(seed)
  alone = small_run.Trial(folder / small_run.FIRST)
  alone.finish()
  met: collections.Counter[str] = collections.Counter()
  number = 0
  while sum(met.values()) < count:
    trial = small_run.Trial(folder / f'killed-{number}')
    number += 1
    later = [moment for moment in moments(rng) if moment != 'first step']
    for moment in ('first step', *rng.sample(later, len(later))):
      if sum(met.values()) < count:
        met[stop_once(trial, rng, moment, number=signal.SIGKILL)[0]] += 1
    del met['finished']
    trial.finish()
    assert small_run.same(alone, trial), f'{trial.folder} differs from {alone.folder}'
    print(f'{sum(met.values())} kills, {dict(met)}: same bits', flush=True)
  return dict(met)


def flip(path: pathlib.Path, rng: random.Random) -> None:
  """Changes one random bit of a file."""
  content = bytearray(path.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(bytes(content))


def flips(folder: pathlib.Path, *, count: int, seed: int) -> dict[str, int]:
  """Flips bits of the newest checkpoint; counts the outcomes.

  A flip is `detected` if the run would resume from the step before, `harmless` if state
  and progress are restored to the last bit, and `silent` otherwise.
  """
  rng = random.Random(seed)
  alone = small_run.Trial(folder / small_run.FIRST)
  if not alone.saved():
    alone.finish()
  expected, newest = alone.state(), alone.saved()[-1]
  outcomes: collections.Counter[str] = collections.Counter()
  for number in range(count):
    place = folder / 'flipped' / 'checkpoints'
    shutil.rmtree(place.parent, ignore_errors=True)
    shutil.copytree(alone.checkpoints, place)
    files = [path for path in (place / str(newest)).rglob('*') if path.is_file()]
    files = [path for path in files if path.stat().st_size]
    # Every other time any file alike; else any byte alike, most of which are arrays.
    weights = [path.stat().st_size for path in files] if number % 2 else None
    path = rng.choices(files, weights)[0]
    flip(path, rng)
    found = alone.state(place)
    outcome = _outcome(found, expected)
    outcomes[outcome] += 1
    if outcome == 'silent':
      print(f'silent: {path.relative_to(place)}', flush=True)
  return dict(outcomes)


def _outcome(found: dict, expected: dict) -> str:
  if found['step'] < expected['step']:
    return 'detected'
  return 'harmless' if found == expected else 'silent'


def soak(folder: pathlib.Path, *, minutes: float, seed: int) -> dict[str, int]:
  """Stops, kills, damages and moves runs until the time is over.

  A run whose number of devices never changes must end bitwise like an uninterrupted
  one. Losses of the others may differ by the fraction `ALIKE`, batches must be equal.
  """
  rng = random.Random(seed)
  alone = small_run.Trial(folder / small_run.FIRST)
  alone.finish()
  met: collections.Counter[str] = collections.Counter()
  end, number, slowest, furthest = time.monotonic() + 60 * minutes, 0, 0.0, 0.0
  while time.monotonic() < end:
    trial, moves = small_run.Trial(folder / f'soaked-{number}'), number % 2 == 1
    number += 1
    for _ in range(rng.randint(3, 6)):
      how = rng.choice((signal.SIGTERM, signal.SIGKILL))
      moment = rng.choice(list(moments(rng)))
      found, seconds = stop_once(trial, rng, moment, number=how)
      met[f'{how.name}, {found}'] += 1
      if how == signal.SIGTERM and found != 'finished':
        slowest = max(slowest, seconds)
      met['bit flipped'] += _flip_newest(trial, rng)
      if moves:
        trial.devices = rng.choice((1, 2, 4))
        met['devices changed'] += 1
    trial.finish()
    if moves:
      found = small_run.differences(alone, trial)['loss']
      assert found <= ALIKE, f'{trial.folder} differs from {alone.folder} by {found}'
      furthest = max(furthest, found)
      met['runs alike on other devices'] += 1
    else:
      assert small_run.same(alone, trial), f'{trial.folder} differs from {alone.folder}'
      met['runs with the same bits'] += 1
    shutil.rmtree(trial.folder)
    print(
      dict(met),
      f'SIGTERM to exit at most {slowest:.1f} s, losses differ by {furthest:.1e}',
      flush=True,
    )
  return dict(met)


def hosts(folder: pathlib.Path, *, seed: int) -> dict[str, float]:
  """Moves a run to other numbers of processes; returns the differences of losses.

  Raises:
    AssertionError: a batch differs.
  """
  del seed
  changes = {'data__rows': 8, 'data__shards': 8, 'evaluation__every': -1}
  changes['train__steps'] = 40
  alone = small_run.Trial(folder / small_run.FIRST, **changes)
  alone.finish()
  trial = small_run.Trial(folder / 'moved', **changes)
  slowest = 0.0
  for trial.processes, trial.devices in HOSTS:
    process, had = trial.start(), len(trial.lines())
    while process.poll() is None and len(trial.lines()) < had + 2:
      time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    if code != 42:
      raise RuntimeError(f'exit code {code}: {trial.said()[-2000:]}')
    slowest = max(slowest, time.monotonic() - began)
    last = trial.lines()[-1]['step']
    print(f'{trial.processes} x {trial.devices}: to step {last}', flush=True)
  trial.processes = trial.devices = 1
  trial.finish()
  return {**small_run.differences(alone, trial), 'seconds_to_exit': slowest}


def lose_folder(trial: small_run.Trial, *, after: int) -> None:
  """Deletes a run's work directory after a step, and lets the run finish."""
  process = trial.start()
  while process.poll() is None and len(trial.lines()) < after:
    time.sleep(0.002)
  shutil.rmtree(trial.folder / 'run', ignore_errors=True)
  if code := process.wait():
    raise RuntimeError(f'exit code {code}: {trial.said()[-2000:]}')


def _flip_newest(trial: small_run.Trial, rng: random.Random) -> bool:
  """Flips a bit of the newest of several checkpoints, every third time."""
  if len(trial.saved()) < 2 or rng.random() > 1 / 3:
    return False
  newest = trial.checkpoints / str(trial.saved()[-1])
  files = [path for path in newest.rglob('*') if path.is_file()]
  flip(max(files, key=lambda path: path.stat().st_size), rng)
  return True


def main() -> None:
  """Runs the requested part and prints the result."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('what', choices=('kills', 'flips', 'soak', 'hosts'))
  parser.add_argument('--count', type=int, default=20)
  parser.add_argument('--minutes', type=float, default=30.0)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--folder', type=pathlib.Path)
  asked = parser.parse_args()
  os.environ['JAX_PLATFORMS'] = 'cpu'
  folder = asked.folder or pathlib.Path(tempfile.mkdtemp())
  count, minutes = {'count': asked.count}, {'minutes': asked.minutes}
  act, much = {
    'kills': (kills, count),
    'flips': (flips, count),
    'soak': (soak, minutes),
    'hosts': (hosts, {}),
  }[asked.what]
  print(json.dumps(act(folder, **much, seed=asked.seed)))


if __name__ == '__main__':
  main()
