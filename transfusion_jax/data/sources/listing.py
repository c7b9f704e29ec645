"""Lists the files at a place, on whatever storage; `files` opens places."""

import collections
import errno
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

COMPRESSED = ('.gz', '.bz2', '.xz', '.zst')
PATTERN = '*?['
NO_ENDING = 'without an ending'

ODD = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
"""Error in a file or its name that will not go away. Every process finds it alike,
where a disk or a network fails one of them.
"""


def look(
  system: Any, local: bool, place: str
) -> tuple[str, dict[str, int] | None, int]:
  """The folder of all, every file's size by its path, and folders of runs left out.

  None instead of sizes: nothing is there.
  """
  if system.isfile(place):
    return posixpath.dirname(place), {place: system.info(place)['size']}, 0
  if system.isdir(place):
    return place, *_below(system, local, place)
  if any(sign in place for sign in PATTERN):
    found = system.glob(place, detail=True)
    first = min(place.find(sign) for sign in PATTERN if sign in place)
    root = posixpath.dirname(place[:first])
    sizes = {
      name: info['size']
      for name, info in found.items()
      if info['type'] == 'file' or (info.get('islink') and not system.isdir(name))
    }
    if '**' in place:
      return root, *_without_runs(system, local, root, sizes)
    return root, sizes, 0
  return place, None, 0


def _below(system: Any, local: bool, folder: str) -> tuple[dict[str, int], int]:
  """Sizes of the files in a folder by their paths; folders of runs left out."""
  if local:
    runs: list[str] = []
    return dict(_walk(folder, frozenset(), runs)), len(runs)
  found = system.find(folder, detail=True)
  sizes = {name: info['size'] for name, info in found.items()}
  return _without_runs(system, local, folder, sizes)


def _walk(
  folder: str, above: frozenset[str], runs: list[str]
) -> Iterator[tuple[str, int]]:
  """The same on this machine, fast; a link to a folder above does not enter twice."""
  with os.scandir(folder) as opened:
    entries = list(opened)
  if above and _of_run({entry.name for entry in entries}):
    runs.append(folder)
    return
  above = above | {os.path.realpath(folder)}
  for entry in entries:
    if entry.name.startswith('.'):
      continue
    try:
      if entry.is_dir():
        if os.path.realpath(entry) not in above:
          yield from _walk(entry.path, above, runs)
      elif entry.is_file():
        yield entry.path, entry.stat().st_size
      elif entry.is_symlink() and not os.path.exists(entry):
        yield entry.path, 0  # broken: told of when it is read
    except OSError as error:
      if error.errno not in (*ODD, errno.ENOENT):
        raise
      yield entry.path, 0  # a link to itself, or gone by now: likewise


def _of_run(names: Set[str]) -> bool:
  """True if these are the names in a work directory of ours."""
  return 'config.json' in names and bool(names & {'contents.json', 'checkpoints'})


def _without_runs(
  system: Any, local: bool, root: str, sizes: Mapping[str, int]
) -> tuple[dict[str, int], int]:
  """The files that are in no work directory below the root; how many there are."""
  content: dict[str, set[str]] = collections.defaultdict(set)
  for path in sizes:
    while len(path) > len(root.rstrip('/')) + 1:
      folder, name = posixpath.split(path)
      if name in content[folder]:
        break
      content[folder].add(name)
      path = folder
  runs = {
    folder
    for folder, names in content.items()
    if len(folder) > len(root.rstrip('/'))
    and (_of_run(names) or local and _of_run(set(os.listdir(folder))))
  }
  runs = {run for run in runs if not any(inside(run, other) for other in runs)}
  kept = {
    path: size
    for path, size in sizes.items()
    if not any(inside(path, run) for run in runs)
  }
  return kept, len(runs)


def inside(path: str, folder: str) -> bool:
  """True if a path begins like one that is below a folder."""
  return path.startswith(folder.rstrip('/') + '/') and path != folder


def really_inside(path: str, *folders: str) -> bool:
  """True if a path on this machine leads into one of the folders, links followed."""
  real = os.path.realpath(path)
  return any(inside(real, os.path.realpath(folder)) for folder in folders)


def ends(name: str, suffixes: Sequence[str]) -> bool:
  """True if a name ends in one of the suffixes; `/name.x` is a whole name."""
  return f'/{name.lower()}'.endswith(tuple(suffixes))


def ending(name: str) -> str:
  """Kind under which a file is counted."""
  return posixpath.splitext(name)[1].lower() or NO_ENDING


def hidden(name: str) -> bool:
  """True if a file, or a folder that it is in, is hidden."""
  return any(part.startswith('.') for part in name.split('/'))


def packed(suffixes: Sequence[str]) -> tuple[str, ...]:
  """Endings of such files that are compressed as a whole."""
  tarball = ('.tgz',) if '.tar' in suffixes else ()
  return tarball + tuple(kind + packed for kind in suffixes for packed in COMPRESSED)
