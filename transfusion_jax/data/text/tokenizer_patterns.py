"""Regular expressions in a `tokenizer.json`, tried before a text is.

The library's engine, Oniguruma, goes back and tries again, and gives a match up after
10 million trials, at which the library panics. A pattern such as `(a+)+$` needs 2^n
trials for n letters and gets there with the first document that has a few of them in a
row. So every pattern is tried on short texts that repeat what stands in it.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import tokenizers as library
from tokenizers import pre_tokenizers

LENGTH = 32
"""Repetitions in a text that is tried: 2^32 trials are too many, 32^4 are not."""

ALWAYS = ('a', 'A', '1', ' ', '.', '\n', 'é', '漢', 'a ')
"""Texts that are repeated to try any pattern."""

MOST = 48
"""Things of a pattern's own that are repeated."""

PARTS = ('normalizer', 'pre_tokenizer', 'decoder', 'post_processor')
"""Parts of the file that hold patterns."""


def check(stored: dict[str, Any]) -> None:
  """Tries every pattern of a file.

  Raises:
    ValueError: a pattern is none, or goes back without end.
  """
  for pattern in dict.fromkeys(_patterns([stored.get(part) for part in PARTS])):
    try:
      split = pre_tokenizers.Split(library.Regex(pattern), 'isolated')
      for repeated in _repeated(pattern):
        split.pre_tokenize_str(repeated * LENGTH + '\0')
    except BaseException as error:
      check_ours(error)
      raise ValueError(
        f'the pattern {pattern[:60]!r}, which cannot be searched for ({told(error)}); '
        'write it without repetitions inside repetitions'
      ) from error


def check_ours(error: BaseException) -> None:
  """Raises what does not come from the library: Ctrl-C, for example.

  A panic of the library is no `Exception`, and its class cannot be imported.
  """
  if not isinstance(error, Exception) and type(error).__name__ != 'PanicException':
    raise error


def told(error: BaseException) -> str:
  """Message of an error of the library, on one line and of bounded length."""
  text = ' '.join(str(error).split())
  if isinstance(error, TypeError | LookupError | AttributeError) or not text:
    text = f'{type(error).__name__} {text}'.strip()
  return text if len(text) <= 200 else f'{text[:200]}...'


def _patterns(part: Any) -> Iterator[str]:
  if isinstance(part, list):
    yield from itertools.chain(*map(_patterns, part))
  elif isinstance(part, dict):
    pattern = part.get('Regex')
    yield from [pattern] if isinstance(pattern, str) else []
    yield from itertools.chain(*map(_patterns, part.values()))


def _repeated(pattern: str) -> list[str]:
  """Letters and pairs of letters to be repeated."""
  singles = [letter for letter in pattern if letter.isalnum()]
  pairs = [a + b for a, b in itertools.pairwise(pattern) if (a + b).isalnum()]
  own = [*dict.fromkeys(singles)][:MOST] + [*dict.fromkeys(pairs)][:MOST]
  return [*dict.fromkeys((*ALWAYS, *own))]
