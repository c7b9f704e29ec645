r"""Encodes the pictures of a source once, so that training can read their latents.

  python -m transfusion_jax.encode_images --config=FILE --source=NAME --output=DIR \
    --config.autoencoder.checkpoint=AUTOENCODER

FILE is the config of a mixed run, NAME one of its data.sources, AUTOENCODER the work
directory of a trained one. DIR gets ArrayRecord files with every record as it was, but
moments (mean and log-variance, float16) of latents in place of its pictures. The same
run trains from them with

  --config.data.moments=true --config.data.sources.NAME.kind=array_record \
  --config.data.sources.NAME.path=DIR

and sees the same batches as with pictures, latents rounded to float16. (Samples from
the posterior, `autoencoder.sample`, are other draws. Broken records are left out for
good, which moves those after them to other places in the order.)

The same command goes on where it was stopped: files that are whole are kept. Machines
that see one DIR, which may be a bucket, share the files out: `--processes=4` and
`--process=0` to `--process=3`; they need not run at the same time.
"""

import posixpath
import time
from concurrent import futures

import jax
import tqdm
from absl import flags
from ml_collections import config_flags
from tqdm.contrib import logging as tqdm_logging

from transfusion_jax.core import command, log, paths
from transfusion_jax.data import corpus
from transfusion_jax.data.latents import encoding
from transfusion_jax.data.latents import manifest as manifest_lib
from transfusion_jax.data.sources import array_record
from transfusion_jax.runs import config, restore
from transfusion_jax.runs import input as input_lib
from transfusion_jax.training import mesh

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Config file of a mixed run.', lock_config=True
)
_SOURCE = flags.DEFINE_string('source', None, 'Which of data.sources is encoded.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for the files, or gs://...')
_FILES = flags.DEFINE_integer('files', 8, 'How many files are written.', 1, 10**5)
_BATCH = flags.DEFINE_integer(
  'batch', 32, 'Pictures a device encodes at once.', 1, 2**16
)
_PROCESS = flags.DEFINE_integer('process', 0, 'Which process this is.', 0, 2**16)
_PROCESSES = flags.DEFINE_integer(
  'processes', 1, 'How many share the files out.', 1, 2**16
)
_THREADS = flags.DEFINE_integer('threads', 16, 'Threads that read and decode.', 1, 1024)


def main() -> None:
  """Checks everything a user can get wrong, then encodes."""
  with command.user_errors():  # to the end: what goes wrong later is the data's fault
    run = _settings()
    source = run.data.sources[_SOURCE.value]
    records = corpus.open_records(source)
    devices = mesh.make(
      mesh.MeshConfig(data=-1, fsdp=1, sequence=1, tensor=1), jax.local_devices()
    )
    checkpoint = run.autoencoder.checkpoint
    directory = paths.local(checkpoint, 'autoencoder.checkpoint')
    frozen = restore.codec_from(directory, devices, deviation=1.0)
    with futures.ThreadPoolExecutor(_THREADS.value) as pool:
      encoder = encoding.Encoder(
        name=_SOURCE.value,
        records=records,
        fields=source.form.pictures,
        pictures=run.data.images,
        encode=input_lib.moments(frozen, devices),
        batch=_BATCH.value * devices.size,
        broken=run.data.broken,
        pool=pool,
      )
      encoder.check()
      encoder.try_out()
      manifest = manifest_lib.Manifest(
        autoencoder=input_lib.identity(frozen),
        height=run.data.images.height,
        width=run.data.images.width,
        fields=sorted({*source.form.pictures}),
        source=records.fingerprint(),
        files=_FILES.value,
      )
      output = paths.anywhere(_OUTPUT.value, '--output')
      manifest_lib.claim(output, manifest)
      _write(encoder, output)


def _settings() -> config.TransfusionRun:
  """The run of the flags, and what can be said of it before anything is opened."""
  if _CONFIG.value is None or not _SOURCE.value or not _OUTPUT.value:
    raise ValueError(
      'expected --config=FILE, --source=NAME and --output=DIR, found not all of them; '
      'for example --source=pictures --output=latents'
    )
  run = config.parse(_CONFIG.value)
  if not isinstance(run, config.TransfusionRun) or not run.autoencoder.checkpoint:
    raise ValueError(
      'expected the config of a mixed run with autoencoder.checkpoint, found none; '
      'name the work directory of an autoencoder with --config.autoencoder.checkpoint'
    )
  if _PROCESS.value >= _PROCESSES.value:
    raise ValueError(
      f'expected --process below --processes, found {_PROCESS.value} of '
      f'{_PROCESSES.value}; count from 0'
    )
  manifest_lib.check_source(run.data, _SOURCE.value)
  return run


def _write(encoder: encoding.Encoder, output: str) -> None:
  """Writes those files of this process that are not there yet."""
  prefix, count = posixpath.join(output, encoder.name), _FILES.value
  sizes = {
    number: len(encoding.span(len(encoder.records), number, count))
    for number in range(_PROCESS.value, count, _PROCESSES.value)
  }
  missing = [
    number for number in sizes if not array_record.written(prefix, number, count)
  ]
  total, left = sum(sizes.values()), sum(sizes[number] for number in missing)
  bar = tqdm.tqdm(
    total=total, initial=total - left, desc='encoding', unit='record',
    mininterval=0.5, dynamic_ncols=True,
  )  # fmt: skip
  began, pictures = time.monotonic(), 0
  try:
    with bar, tqdm_logging.logging_redirect_tqdm([log.logger]):
      for number in missing:
        pictures += encoder.write(prefix, number, count, bar.update)
  except KeyboardInterrupt as stop:
    raise command.Exit(130, 'stopped; the same command goes on from here') from stop
  speed = pictures / max(time.monotonic() - began, 1e-6)
  log.info(f'{output}: {pictures:,} pictures encoded, {speed:,.1f} a second')


if __name__ == '__main__':
  command.run(main)
