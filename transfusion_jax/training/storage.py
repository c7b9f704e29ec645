"""Storage: checks before writing, and safe changes of files and folders."""

import contextlib
import os
import pathlib
import shutil


def trouble(directory: pathlib.Path, needed: int) -> str:
  """Reason why `needed` bytes cannot be written below a folder; empty if they can.

  The folder is created if absent.
  """
  probe = directory / '.probe'
  try:
    directory.mkdir(parents=True, exist_ok=True)
    probe.write_bytes(b'.')
    probe.unlink(missing_ok=True)  # another process may have the same one
    free = shutil.disk_usage(directory).free
  except OSError as error:
    return str(error)
  if free < needed:
    return f'{needed / 2**20:,.1f} MiB are needed, {free / 2**20:,.1f} MiB are free'
  return ''


def numbers(directory: pathlib.Path) -> list[int]:
  """Names of entries that are numbers, ascending; none if the folder is unreadable."""
  try:
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
  except OSError:
    return []


def append(path: pathlib.Path, data: bytes) -> None:
  """Appends data to a file, durably: on return all of it is on disk, else OSError."""
  path.parent.mkdir(parents=True, exist_ok=True)
  size = path.stat().st_size if path.exists() else 0
  try:
    with path.open('ab') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
  except OSError:
    with contextlib.suppress(OSError):
      os.truncate(path, size)
    raise


def set_aside(folder: pathlib.Path, place: pathlib.Path) -> pathlib.Path:
  """Renames a folder; if the name is taken, a number is added to it.

  Returns:
    The new name.
  """
  place.parent.mkdir(parents=True, exist_ok=True)
  number, target = 1, place
  while target.exists():
    number += 1
    target = place.with_name(f'{place.name}-{number}')
  return folder.rename(target)
