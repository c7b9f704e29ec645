r"""Starts a command as several processes on this machine, like the hosts of a pod.

  python -m launch.local --processes=2 --devices=4 -- \
    python -m transfusion_jax.train --config=configs/emoji_scenes.py --workdir=DIR

Every process has its own CPU devices, and environment variables from which `train`
connects to the others. Output of process 0 is passed on unchanged, that of the others
with their number before every line. Ctrl-C, SIGTERM and SIGHUP (unless started with
nohup) are sent to all. If one fails the others are ended, and its exit code is the
launcher's; the last line names the process and its error. If the reader of the output
is gone, the processes continue. `--dry-run` prints the commands.
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
"""Seconds from SIGTERM to SIGKILL when processes are ended."""

_DEVICE_FLAG = re.compile(r'--xla_force_host_platform_device_count=\d+')
"""Flag in XLA_FLAGS that would contradict `--devices`."""

_GREETING = re.compile(rb'\[Gloo\]|connected peer ranks is')
"""Messages of the CPU collectives library on standard output, which are dropped."""

_LIBRARY, _PARENT_DEATH_SIGNAL = ctypes.CDLL(None), 1
_LONGEST_LINE = 4096


def variables(index: int, *, processes: int, devices: int, port: int) -> dict[str, str]:
  """Environment variables of a process, in addition to the launcher's own."""
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
  """Process whose output is passed on."""

  def __init__(
    self,
    index: int,
    command: Sequence[str],
    added: Mapping[str, str],
    ended: queue.SimpleQueue,
  ):
    """Starts the process in its own session: Ctrl-C reaches only the launcher.

    Args:
      index: index of the process.
      command: program and arguments.
      added: additional environment variables.
      ended: queue that receives the process when it has ended.
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
    """Exit code, 128 + n if ended by signal n; waits for the end."""
    code = self._process.wait()
    return 128 - code if code < 0 else code

  def send(self, number: int) -> None:
    """Sends a signal if the process still runs."""
    self._process.send_signal(number)

  def kill(self) -> None:
    """Kills the process and its children."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()

  def last_words(self) -> str:
    """Last line on standard error; waits for all output."""
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
  """Starts processes and waits for all of them.

  Args:
    command: program and arguments, the same for all.
    added: additional environment variables of each process.

  Returns:
    The exit code of the first process that failed; 0 if none did.
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
      running.append(Process(index, command, added=variables, ended=ended))
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
  """Waits for all processes, limited after a failure; returns the first that failed."""
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
  """Makes Linux kill this new process if the launcher is killed."""
  if sys.platform == 'linux':
    _LIBRARY.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def free_port() -> int:
  """Free TCP port of this machine."""
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def main(argv: Sequence[str]) -> int:
  """Parses the command line and runs the processes; returns the exit code."""
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
