"""TFDS data sets, by name or by directory, without TensorFlow."""

from collections.abc import Callable, Sequence
from typing import Any

import google.protobuf.json_format
import google.protobuf.message
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from transfusion_jax.core import paths
from transfusion_jax.data.sources import source

READABLE = "builder.download_and_prepare(file_format='array_record')"


class Tfds:
  """One record for every example.

  Pictures stay encoded. Text, and other strings that are UTF-8, are str. A class label
  is a number, and its name stands beside it: `label` and `label_name`. Nested features
  are named by dotted paths (`flatten`), sequences of them too: COCO's captions are the
  list `captions.text`.
  """

  def __init__(self, name: str, split: str, data_dir: str):
    """Opens what is prepared on this machine; nothing is downloaded.

    Args:
      name: such as 'coco_captions/2014'; empty: `data_dir` is that of one data set.
      split: such as 'train' or 'train[:90%]'.
      data_dir: where data sets are; empty: TFDS's own place.

    Raises:
      ValueError: no such data set or split, or one that cannot be read at random.
    """
    builder = opened(name, data_dir)
    self._name = f'{builder.info.full_name}[{split}]'
    self._features = builder.info.features
    self._examples = data_source(builder, split)
    # Not when it is made, so that TFDS's mock data, which are arrays, can stand in.
    self._examples.decoders = undecoded(self._features)
    self._sizes = [
      [name, list(info.shard_lengths), info.num_bytes]
      for name, info in sorted(builder.info.splits.items())
    ]

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> source.Record:
    index = range(len(self))[index]
    with source.named(self, index):
      try:
        example = self._examples[index]
      # What a damaged file was seen to lead to.
      except (
        ValueError,
        RuntimeError,
        KeyError,
        google.protobuf.message.DecodeError,
      ) as error:
        raise ValueError(
          f'expected a sound example, found {source.one_line(error)}; prepare the data '
          'set again'
        ) from error
      return source.flatten(plain(self._features, example))

  def name(self, index: int) -> str:
    """Data set, version, split and number of the example, from 0."""
    return f'{self._name}: example {range(len(self))[index]}'

  def fingerprint(self) -> str:
    return source.digest(['tfds', self._name, self._sizes, len(self)])

  def summary(self) -> source.Summary:
    return source.Summary(len(self))


def opened(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  """A data set by its name, or by its directory.

  Raises:
    ValueError: there is none.
  """
  if '://' in data_dir:
    raise ValueError(
      f'expected a data set on this machine, found data_dir={data_dir!r}; copy it here'
    )
  data_dir = str(paths.local(data_dir, 'directory')) if data_dir else ''
  try:
    if not name:
      return tfds.builder_from_directory(data_dir)
    # From its files alone: the code of some data sets wants TensorFlow.
    return read_only_builder.builder_from_files(name, data_dir=data_dir or None)
  except (ValueError, KeyError, OSError, google.protobuf.json_format.Error) as error:
    what = f'the TFDS data set {name!r}' if name else 'one TFDS data set'
    raise ValueError(
      f'expected {what} in {data_dir or "the usual place"}, found none '
      f'({source.one_line(error)}); check name and directory, or prepare it with '
      f'{READABLE}'
    ) from error


def data_source(builder: tfds.core.DatasetBuilder, split: str) -> Sequence[Any]:
  """The examples of a split.

  Raises:
    ValueError: no such split, nothing is prepared, or as TFRecord.
  """
  splits = sorted(builder.info.splits)
  if splits and split.partition('[')[0].partition('+')[0] not in splits:
    raise ValueError(
      f'expected a split of {builder.info.full_name} among {splits}, found {split!r}; '
      'prepare it, or use one of these'
    )
  try:
    return builder.as_data_source(split=split)
  except NotImplementedError as error:
    raise ValueError(
      f'expected {builder.info.full_name} as ArrayRecord in {builder.data_dir}, found '
      f'{builder.info.file_format}, which cannot be read at random; prepare it again '
      f'with {READABLE}'
    ) from error
  except (ValueError, KeyError, OSError, RuntimeError, AssertionError) as error:
    raise ValueError(
      f'expected the split {split!r} of {builder.info.full_name} prepared in '
      f'{builder.data_dir}, found it is not ({source.one_line(error)}); prepare it '
      f'with {READABLE}'
    ) from error


class Encoded(tfds.decode.SkipDecoding):
  """Leaves pictures as they are stored, those of a sequence too."""

  def decode_batch_example_np(self, batch: Any) -> Any:
    return batch


def undecoded(feature: tfds.features.FeatureConnector) -> Any:
  """Decoders that leave the pictures of a feature encoded; None: it has none."""
  if isinstance(feature, tfds.features.FeaturesDict):
    inner = {name: undecoded(each) for name, each in feature.items()}
    return {name: each for name, each in inner.items() if each} or None
  if isinstance(feature, tfds.features.Sequence):
    return undecoded(feature.feature)
  return Encoded() if isinstance(feature, tfds.features.Image) else None


def plain(feature: tfds.features.FeatureConnector, value: Any, depth: int = 0) -> Any:
  """Value of a TFDS feature as plain values, still nested.

  Args:
    feature: that the value is of.
    value: a sequence of dicts comes from TFDS as a dict of sequences.
    depth: sequences that the feature stands in.

  Raises:
    ValueError: text that is not UTF-8.
  """
  if isinstance(feature, tfds.features.FeaturesDict):
    nested = {name: plain(each, value[name], depth) for name, each in feature.items()}
    labels = {name: _label(each) for name, each in feature.items()}
    for name, label in labels.items():
      if label:
        nested[f'{name}_name'] = _mapped(label.int2str, nested[name])
    return nested
  if isinstance(feature, tfds.features.Dataset):  # which is a sequence, too
    return [plain(feature.feature, each) for each in value]
  if isinstance(feature, tfds.features.Sequence):
    return plain(feature.feature, value, depth + 1)
  if isinstance(feature, tfds.features.Image):
    return value if depth == 0 else list(value)
  if isinstance(feature, tfds.features.Text):
    return _mapped(_text, value)
  return _mapped(_scalar, value)


def _label(
  feature: tfds.features.FeatureConnector,
) -> tfds.features.ClassLabel | None:
  """The class label that a feature is, or is a sequence of, if its names are known."""
  while isinstance(feature, tfds.features.Sequence):
    feature = feature.feature
  named = isinstance(feature, tfds.features.ClassLabel) and feature.names
  return feature if named else None


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
  """A function of a value, or of each in an array or a list, however deep."""
  if isinstance(value, np.ndarray) and value.ndim == 0:
    value = value.item()
  if isinstance(value, (list, np.ndarray)):
    return [_mapped(function, each) for each in value]
  return function(value)


def _text(value: str | bytes) -> str:
  return value if isinstance(value, str) else source.text(value)


def _scalar(value: Any) -> Any:
  """A number, or text if it is any."""
  if isinstance(value, np.generic):
    value = value.item()
  if not isinstance(value, bytes):
    return value
  try:
    return value.decode('utf-8')
  except UnicodeDecodeError:
    return value
