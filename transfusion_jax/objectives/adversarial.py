"""The adversarial half of the autoencoder's loss.

The autoencoder is to draw what the discriminator D takes for data, D not to (hinge
loss; Esser et al., 2021, after Lim and Ye, 2017). With x a picture, y its copy and sg
what gradients do not pass:

    realism(y)     = -mean D_sg(y)                                          (1)
    doubt(x, y)    = mean (max(0, 1 - D(x)) + max(0, 1 + D(sg y))) / 2      (2)
    balance(x, y)  = |grad likeness| / (|grad realism| + 1e-4), in [0, 1e4] (3)

with likeness what else y is drawn for, and gradients at the kernel of the decoder's
last layer (Esser et al., eq. 7). There (3) is one number for the pictures of a device;
here every picture has its own, so that the loss is a sum over pictures, however they
are grouped.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transfusion_jax.models.codecs import discriminator

SMALLEST, LARGEST = 1e-4, 1e4


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
  """The opponent of the autoencoder.

  Attributes:
    weight: of realism (1), before it is balanced by (3); 0.5 in the paper, 0: no
      discriminator.
    begin: first step at which it counts and the discriminator learns; 50,000 in the
      paper.
    discriminator: its layout.
  """

  weight: float
  begin: int
  discriminator: discriminator.DiscriminatorConfig


def realism(
  judge: discriminator.Discriminator, y: Float[Array, 'b h w 3']
) -> Float[Array, ' b']:
  """(1) of each picture: small where the judge takes it for data, and then so is it."""
  return -jnp.mean(jax.lax.stop_gradient(judge)(y), axis=(1, 2))


def doubt(
  judge: discriminator.Discriminator,
  x: Float[Array, 'b h w 3'],
  y: Float[Array, 'b h w 3'],
) -> Float[Array, ' b']:
  """(2) of each pair: 0 where the judge tells them apart."""
  data = jax.nn.relu(1.0 - judge(x))
  drawn = jax.nn.relu(1.0 + judge(jax.lax.stop_gradient(y)))
  return 0.5 * jnp.mean(data + drawn, axis=(1, 2))


Term = Callable[[Float[Array, 'b h w 3']], Float[Array, ' b']]


def balance(
  likeness: Term,
  realism: Term,
  y: Float[Array, 'b h w 3'],
  at_last_layer: Callable[[Float[Array, 'b h w 3']], Float[Array, 'b ...']],
) -> Float[Array, ' b']:
  """(3) of each picture, itself without a gradient.

  Args:
    likeness: a loss of pictures.
    realism: another.
    y: the pictures.
    at_last_layer: from a loss's gradients at the pictures to those at a layer's kernel.
  """

  def length(term: Term) -> Float[Array, ' b']:
    gradient = at_last_layer(jax.grad(lambda y: jnp.sum(term(y)))(y))
    return jnp.sqrt(jnp.sum(jnp.square(gradient), axis=range(1, gradient.ndim)))

  y = jax.lax.stop_gradient(y)
  ratio = length(likeness) / (length(realism) + SMALLEST)
  return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, LARGEST))
