"""A trained model as people use it: pictures of prompts, captions, answers, edits."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Key, UInt8

from transfusion_jax.data import documents
from transfusion_jax.data.rows import layout
from transfusion_jax.generation import engine, requests
from transfusion_jax.generation import logits as logits_lib
from transfusion_jax.generation.samplers import denoise

Picture = UInt8[np.ndarray, 'h w 3']
Keys = Key[Array, ' b']


class Writer(engine.Engine):
  """The tasks; each takes a batch and gives a batch, in the same order.

  `keys` has one random key per item; what an item gives does not depend on the others.
  Pictures are uint8 pixels [h, w, 3] of the size that the model was trained on. Prompts
  that leave no room, and words that the tokenizer does not know, are a `ValueError`.
  """

  def draw(
    self, prompts: Sequence[str], keys: Keys, sampling: denoise.ImageSampling
  ) -> UInt8[np.ndarray, 'b h w 3']:
    """A picture of every prompt; of anything where the prompt is empty."""
    found = [self.layout.picture_prompt(prompt) for prompt in prompts]
    return self.draw_after(found, keys, sampling)

  def draw_after(
    self,
    prompts: Sequence[layout.Sequence],
    keys: Keys,
    sampling: denoise.ImageSampling,
    *,
    given: requests.Given | None = None,
  ) -> UInt8[np.ndarray, 'b h w 3']:
    """A picture behind every beginning of a document; each must end in BOI."""
    written = self.write(_pictures(prompts, keys), sampling, given=given)
    return np.stack([pieces[0].picture for pieces in written])

  def trajectories(
    self,
    prompts: Sequence[str],
    keys: Keys,
    sampling: denoise.ImageSampling,
    *,
    stages: int,
  ) -> UInt8[np.ndarray, 'b stages h w 3']:
    """Expected clean images at stages of their denoising.

    Args:
      prompts: as in `draw`.
      keys: as in `draw`.
      sampling: as in `draw`.
      stages: predictions, at most as many as steps, which are evenly spread from the
        first to the last; that one is the picture itself.
    """
    found = [self.layout.picture_prompt(prompt) for prompt in prompts]
    return self.trajectory(_pictures(found, keys), sampling, stages=stages)

  def caption(
    self,
    pictures: Sequence[Picture],
    *,
    limit: int,
    text: logits_lib.TextSampling = logits_lib.GREEDY,
    keys: Keys | None = None,
  ) -> list[str]:
    """Captions of images; the likeliest words unless asked otherwise."""
    prompts = [self.layout.caption_prompt(picture) for picture in pictures]
    return self.complete(prompts, keys, text, limit=limit)

  def answer(
    self,
    pictures: Sequence[Picture],
    questions: Sequence[str],
    *,
    text: logits_lib.TextSampling = logits_lib.GREEDY,
    keys: Keys | None = None,
  ) -> list[str]:
    """Answers a question about each picture."""
    prompts = [
      self.layout.answer_prompt(picture, question)
      for picture, question in zip(pictures, questions, strict=True)
    ]
    return self.complete(prompts, keys, text)

  def complete(
    self,
    prompts: Sequence[layout.Sequence],
    keys: Keys | None,
    text: logits_lib.TextSampling,
    *,
    limit: int | None = None,
    stop: Sequence[str] = (),
  ) -> list[str]:
    """Text behind every beginning of a document, up to EOS, BOI or a stop string.

    Args:
      prompts: beginnings, pictures and all.
      keys: one per prompt; None where nothing is drawn at random.
      text: how text is written.
      limit: most tokens, if fewer than those of `text`.
      stop: strings before which to end.
    """
    if limit is not None:
      text = _shorter(text, limit)
    keys = jax.random.split(jax.random.key(0), len(prompts)) if keys is None else keys
    asked = [
      requests.Request(prompt, key, text, pictures=0)
      for prompt, key in zip(prompts, keys, strict=True)
    ]
    written = self.write(asked, _ANY_PICTURE, stop=stop)
    return [''.join(piece.text for piece in pieces) for pieces in written]

  def edit(
    self,
    pictures: Sequence[Picture],
    instructions: Sequence[str],
    keys: Keys,
    sampling: denoise.ImageSampling,
  ) -> UInt8[np.ndarray, 'b h w 3']:
    """Edits of images by instructions."""
    prompts = [
      self.layout.edit_prompt(picture, words)
      for picture, words in zip(pictures, instructions, strict=True)
    ]
    return self.draw_after(prompts, keys, sampling)

  def inpaint(
    self,
    prompts: Sequence[str],
    pictures: Sequence[Picture],
    masks: Sequence[Bool[np.ndarray, 'h w']],
    keys: Keys,
    sampling: denoise.ImageSampling,
  ) -> UInt8[np.ndarray, 'b h w 3']:
    """Draws anew where a mask is True; all other pixels stay exactly as they are.

    While denoising, the predicted latents outside the mask are those of the picture. A
    mask along the border outpaints.
    """
    given = requests.Given(pictures, masks, strength=1.0)
    found = [self.layout.picture_prompt(prompt) for prompt in prompts]
    drawn = self.draw_after(found, keys, sampling, given=given)
    return np.stack(list(map(requests.kept, pictures, masks, drawn)))

  def vary(
    self,
    prompts: Sequence[str],
    pictures: Sequence[Picture],
    keys: Keys,
    sampling: denoise.ImageSampling,
    *,
    strength: float,
  ) -> UInt8[np.ndarray, 'b h w 3']:
    """Pictures like those given: noised up to `strength`, then denoised (SDEdit).

    Args:
      prompts: what the pictures show; may be empty.
      pictures: what is varied.
      keys: one per picture.
      sampling: how; its steps are taken from `strength` down.
      strength: above 0, almost the same picture, up to 1, another.
    """
    given = requests.Given(pictures, None, strength)
    found = [self.layout.picture_prompt(prompt) for prompt in prompts]
    return self.draw_after(found, keys, sampling, given=given)

  def interleave(
    self,
    beginnings: Sequence[documents.Document],
    keys: Keys,
    sampling: denoise.ImageSampling,
    text: logits_lib.TextSampling,
    *,
    pictures: int,
  ) -> list[list[requests.Piece]]:
    """Continues documents freely, text and at most `pictures` pictures in turn.

    A document that would open one picture more ends there.
    """
    asked = [
      requests.Request(
        self.layout.prompt(beginning, open_image=False), key, text, pictures
      )
      for beginning, key in zip(beginnings, keys, strict=True)
    ]
    return self.write(asked, sampling)


_NO_TEXT = logits_lib.TextSampling(0.0, 0, 1.0, 0.0, limit=0)
_ANY_PICTURE = denoise.ImageSampling('ddim', 1, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
"""For documents without pictures, where it makes no difference."""


def _pictures(prompts: Sequence[layout.Sequence], keys: Keys) -> list[requests.Request]:
  """One picture behind every beginning of a document, and nothing else."""
  return [
    requests.Request(prompt, key, _NO_TEXT, pictures=1)
    for prompt, key in zip(prompts, keys, strict=True)
  ]


def _shorter(text: logits_lib.TextSampling, limit: int) -> logits_lib.TextSampling:
  least = min(limit, text.limit)
  return logits_lib.TextSampling(
    text.temperature, text.top_k, text.top_p, text.min_p, least
  )
