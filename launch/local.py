r"""Starts a command as several processes on this machine, as hosts would run it.

  python -m launch.local --processes=2 --devices=4 -- \
    python -m transfusion_jax.train --config=configs/emoji_scenes.py --workdir=DIR

Every process has CPU devices of its own and finds in its environment where the others
are; `train` joins them. Process 0 is heard as it is, the others with their number
before every line. Ctrl-C, SIGTERM and SIGHUP (unless begun with nohup) go to all. When
one fails the others are ended, and its exit code is the launcher's; the last line says
which one it was, and why. Where nobody reads any more, the processes go on unheard.
`--dry-run` prints what would run.
"""

import contextlib
import ctypes
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from launch import command_line
from transfusion_jax.core import log, streams
from transfusion_jax.training import preemption

GRACE = 5.0
"""Seconds between asking processes to end and ending them."""

_DEVICE_FLAG = re.compile(r'--xla_force_host_platform_device_count=\d+')
"""Would contradict the number of devices that is asked for."""

_GREETING = re.compile(rb'\[Gloo\]|connected peer ranks is')
"""What the library of CPU collectives says on standard output."""

_LIBRARY, _PARENT_DEATH_SIGNAL = ctypes.CDLL(None), 1
_LONGEST_LINE = 4096


def variables(index: int, *, processes: int, devices: int, port: int) -> dict[str, str]:
  """What a process finds in its environment beyond the launcher's own."""
  flags = os.environ.get('XLA_FLAGS', '')
  kept = _DEVICE_FLAG.sub('', flags)
  return {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
    'JAX_NUM_PROCESSES': str(processes),
    'JAX_PROCESS_ID': str(index),
    'PYTHONUNBUFFERED': '1',
    **({} if kept == flags else {'XLA_FLAGS': kept}),
  }


class Process:
  """One of the processes, with all that it says passed on."""

  def __init__(
    self,
    index: int,
    command: Sequence[str],
    added: Mapping[str, str],
    ended: queue.SimpleQueue,
  ):
    """Starts it, in a session of its own: a terminal's Ctrl-C reaches the launcher.

    Args:
      index: of all.
      command: program and arguments.
      added: to its environment.
      ended: where it is put with its exit code as soon as it has one.
    """
    self.index, self._end = index, b''
    self._process = subprocess.Popen(
      command,
      env={**os.environ, **added},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,
      preexec_fn=end_with_launcher,
    )
    pairs = ((self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr))
    self._relays = [threading.Thread(target=self._relay, args=pair) for pair in pairs]
    for thread in self._relays:
      thread.start()
    threading.Thread(target=lambda: ended.put((self, self.code()))).start()

  def code(self) -> int:
    """Its exit code, 128 + n where signal n ended it; waits for its end."""
    code = self._process.wait()
    return 128 - code if code < 0 else code

  def send(self, number: int) -> None:
    """Sends a signal, if it is still there."""
    self._process.send_signal(number)

  def kill(self) -> None:
    """Ends it and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()

  def last_words(self) -> str:
    """The last line that it wrote on standard error; waits for all of them."""
    for thread in self._relays:
      thread.join()
    return re.split(r'[\r\n]+', self._end.decode(errors='replace').strip())[-1]

  def _relay(self, pipe, stream) -> None:
    # The pipe is read to its end whatever becomes of the sink: the process would wait.
    sink, errors, part = (
      streams.Lasting(stream.buffer, lossy=True),
      stream is sys.stderr,
      b'',
    )
    # Progress bars end in a carriage return: process 0 is passed on as it comes.
    for part in iter(pipe.read1 if errors and not self.index else pipe.readline, b''):
      if _GREETING.search(part):
        continue
      if errors:
        self._end = (self._end + part)[-_LONGEST_LINE:]
      sink.write(b'[%d] %s' % (self.index, part) if self.index else part)
      sink.flush()
    if part and not part.endswith(b'\n'):
      sink.write(b'\n')
      sink.flush()


def run(command: Sequence[str], added: Sequence[Mapping[str, str]]) -> int:
  """Starts processes and stays until all have ended; the first failure's exit code.

  Args:
    command: program and arguments, the same for all.
    added: to the environment of each.
  """
  running: list[Process] = []
  asked: list[int] = []
  ended = queue.SimpleQueue()
  handlers = {}

  def forward(number, frame):
    del frame
    asked.append(number)
    for each in running:
      each.send(number)

  try:
    for number in preemption.heeded():
      handlers[number] = signal.signal(number, forward)
    for index, variables in enumerate(added):
      running.append(Process(index, command, variables, ended))
      if asked:  # before it was there
        running[-1].send(asked[-1])
    failed = _wait(running, ended)
  finally:
    for each in running:
      each.kill()
    for number, handler in handlers.items():
      signal.signal(number, handler)
  said = [each.last_words() for each in running]
  if failed is None:
    return 0
  number, code = failed.index, failed.code()
  how = f'process {number} of {len(running)} ended first, with exit code {code}'
  print(': '.join(filter(None, (how, said[number]))), file=sys.stderr, flush=True)
  return code


def _wait(running: Sequence[Process], ended: queue.SimpleQueue) -> Process | None:
  """The first that failed, once all have ended or had their time to."""
  failed, seconds = None, None
  for _ in running:
    try:
      process, code = ended.get(timeout=seconds)
    except queue.Empty:
      break
    if code and failed is None:
      failed, seconds = process, GRACE
      for each in running:
        each.send(signal.SIGTERM)
  return failed


def end_with_launcher() -> None:
  """In a new process: Linux ends it if even the launcher is killed."""
  if sys.platform == 'linux':
    _LIBRARY.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def free_port() -> int:
  """A port of this machine that nobody listens to."""
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def main(argv: Sequence[str]) -> int:
  """Parses the command line and runs; the exit code."""
  usage = '--processes=N --devices=N'
  parser = command_line.Parser('launch.local', __doc__, usage)
  count = command_line.whole(1, 1024)
  parser.add_argument('--processes', type=count, required=True, help='how many')
  parser.add_argument('--devices', type=count, required=True, help='of every process')
  asked = parser.read(argv)
  if shutil.which(asked.command[0]) is None:
    parser.error(
      f'expected a program behind --, found {asked.command[0]!r}; correct its name'
    )
  port = free_port()
  added = [
    variables(index, processes=asked.processes, devices=asked.devices, port=port)
    for index in range(asked.processes)
  ]
  if asked.dry_run:
    for each in added:
      print(command_line.shown(asked.command, each))
    return 0
  return run(asked.command, added)


if __name__ == '__main__':
  log.setup()
  sys.exit(main(sys.argv[1:]))
