"""A model as lm-eval asks for one: likelihoods of texts, and texts until a stop.

Importing this needs the package; `harness.py` waits with it until it is used.

Tokens are split as is usual there: context and continuation are encoded together, and
the ids beyond as many as the context alone has are the continuation's; spaces at the
end of a context belong to the continuation. Every context begins with BOS, as every
document of training does. One that is too long loses its beginning.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import lm_eval.utils
from lm_eval.api import instance, model

from transfusion_jax.generation import logits
from transfusion_jax.generation import writer as writer_lib

Requests = Sequence[instance.Instance]
Pair = tuple[list[int], list[int]]
"""Ids that are read, and ids whose likelihood is asked for."""

TOKENS = 256
"""Written where a task does not say how many, as other models of lm-eval have it."""


class WriterModel(model.LM):
  """A `writer_lib.Writer`; batches of `rows` requests, the longest first."""

  def __init__(self, writer: writer_lib.Writer, *, rows: int):
    super().__init__()
    self._writer, self._rows = writer, rows
    # The last token is predicted and never read; its place is left free.
    self._longest = writer.context - 1

  def loglikelihood(self, requests: Requests) -> list[tuple[float, bool]]:
    """For (context, continuation): natural logarithm, and whether greedy says it.

    Raises:
      ValueError: a continuation alone is longer than a row.
    """
    pairs = [self._cut(self._split(*request.args)) for request in requests]
    return self._scores(pairs)

  def loglikelihood_rolling(self, requests: Requests) -> list[float]:
    """The likelihood of whole texts: every token once, after as many as fit.

    The first window begins with BOS, the others with the token before theirs.
    """
    windows: list[tuple[int, Pair]] = []
    for number, request in enumerate(requests):
      rolling = lm_eval.utils.get_rolling_token_windows(
        self._writer.tokenizer.encode(request.args[0]),
        prefix_token=self._writer.tokenizer.special.bos,
        max_seq_len=self._longest,
        context_len=1,
      )
      windows += [(number, lm_eval.utils.make_disjoint_window(it)) for it in rolling]
    totals = [0.0] * len(requests)
    found = self._scores([pair for _, pair in windows])
    for (number, _), (likelihood, _) in zip(windows, found, strict=True):
      totals[number] += likelihood
    return totals

  def generate_until(self, requests: Requests) -> list[str]:
    """For (context, settings): what follows the context, up to a stop string.

    Raises:
      ValueError: more is to be written than a row holds.
    """
    groups = defaultdict(dict)
    for number, request in enumerate(requests):
      words, settings = request.args
      sampling, stop = _settings(settings)
      groups[sampling, stop][number] = self._context(words, sampling.limit)
    found = [''] * len(requests)
    for (sampling, stop), contexts in groups.items():
      for part in self._parts(contexts):
        prompts = [self._writer.layout.of_ids(contexts[k]) for k in part]
        keys = jax.vmap(jax.random.key)(jnp.asarray(part))
        said = self._writer.complete(prompts, keys, sampling, stop=stop)
        for k, text in zip(part, said, strict=True):
          found[k] = text
    return found

  def _split(self, context: str, continuation: str) -> Pair:
    """Ids of a context, and those that a continuation adds to them."""
    encode = self._writer.tokenizer.encode
    kept = context.rstrip()
    before = len(encode(kept))
    ids = encode(context + continuation)
    return [self._writer.tokenizer.special.bos, *ids[:before]], ids[before:]

  def _cut(self, pair: Pair) -> Pair:
    """The same, without the beginning of a context that is too long."""
    context, continuation = pair
    room = self._longest + 1 - len(continuation)
    if room < 1:
      raise ValueError(
        f'expected continuations of at most {self._longest} tokens, found one of '
        f'{len(continuation)}; take another task, or a model of a longer row_length'
      )
    return context[-room:], continuation

  def _context(self, words: str, limit: int) -> list[int]:
    """Ids of a context, whose end leaves room for what is written behind it."""
    room = self._writer.context - limit
    if room < 1:
      raise ValueError(
        f'expected tasks that write fewer than {self._writer.context} tokens, found '
        f'one of {limit}; set max_gen_toks in a task of your own'
      )
    bos = self._writer.tokenizer.special.bos
    return [bos, *self._writer.tokenizer.encode(words)][-room:]

  def _scores(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
    lengths = {k: [*context, *more] for k, (context, more) in enumerate(pairs)}
    found = [(0.0, True)] * len(pairs)
    for part in self._parts(lengths):
      prompts = [self._writer.layout.of_ids(pairs[k][0]) for k in part]
      scores = self._writer.score(prompts, [pairs[k][1] for k in part])
      for k, score in zip(part, scores, strict=True):
        found[k] = (-score.nats, score.greedy)
    return found

  def _parts(self, ids: dict[int, list[int]]) -> Iterator[list[int]]:
    """Numbers of requests that go together, so that rows of a batch are as long."""
    order = sorted(ids, key=lambda k: -len(ids[k]))
    for start in range(0, len(order), self._rows):
      yield order[start : start + self._rows]


def _settings(asked: dict[str, Any]) -> tuple[logits.TextSampling, tuple[str, ...]]:
  """Text sampling that a task asks for; greedy without `do_sample`."""
  until = asked.get('until') or ()
  stop = (until,) if isinstance(until, str) else tuple(until)
  sampled = asked.get('do_sample', False)
  sampling = logits.TextSampling(
    temperature=float(asked.get('temperature', 1.0)) if sampled else 0.0,
    top_k=int(asked.get('top_k', 0)),
    top_p=float(asked.get('top_p', 1.0)),
    min_p=float(asked.get('min_p', 0.0)),
    limit=int(asked.get('max_gen_toks', TOKENS)),
  )
  return sampling, stop
