"""CLIP score: how well pictures suit their texts (Hessel et al., 2021).

100 times the cosine of the two embeddings, or 0 where it is negative, for every pair;
the score is their mean. Texts are taken as they are, without words before them. A score
belongs to its network: papers say which (ViT-B/32, or ViT-L/14).
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from transfusion_jax.core import paths
from transfusion_jax.evaluation import extras


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """Choice of the CLIP model.

  Attributes:
    model: its name in open_clip; those of OpenAI end in '-quickgelu'.
    weights: file of its weights; empty leaves the score out.
  """

  model: str
  weights: str

  def __post_init__(self):
    weights = paths.anywhere(self.weights, 'clip.weights')
    object.__setattr__(self, 'weights', weights)


class ClipScore:
  """A CLIP that rates pairs."""

  def __init__(self, config: ClipConfig):
    """Checks package, name and file.

    Raises:
      ValueError: one is not there.
    """
    extras.need('open_clip', 'the CLIP score')
    self._config = config
    self._weights = extras.file(config.weights, f'the weights of CLIP {config.model}')

  def __call__(
    self, texts: Sequence[str], pictures: UInt8[np.ndarray, 'b h w 3']
  ) -> Float[np.ndarray, ' b']:
    """The score of every pair, 0 to 100."""
    import torch

    model, prepare, tokenize = self._loaded
    device = next(model.parameters()).device
    shown = torch.stack([prepare(Image.fromarray(each)) for each in pictures])
    with torch.no_grad():
      seen = model.encode_image(shown.to(device), normalize=True)
      read = model.encode_text(tokenize(list(texts)).to(device), normalize=True)
    cosine = (seen * read).sum(dim=-1).cpu().numpy()
    return 100 * np.maximum(cosine, 0).astype(np.float64)

  @functools.cached_property
  def _loaded(self):
    """The model, what makes pictures ready for it, and its tokenizer."""
    import open_clip
    import torch

    name = self._config.model
    if name not in open_clip.list_models():
      raise ValueError(
        f'expected the name of a model of open_clip, found {name!r}; see '
        'open_clip.list_models()'
      )
    try:
      model, _, prepare = open_clip.create_model_and_transforms(
        name, pretrained=str(self._weights)
      )
    except (RuntimeError, KeyError, AssertionError) as error:
      raise ValueError(
        f'expected weights of {name} in {self._weights}, found others '
        f'({str(error).splitlines()[0]}); name the model that they are of'
      ) from error
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return model.eval().to(device), prepare, open_clip.get_tokenizer(name)
