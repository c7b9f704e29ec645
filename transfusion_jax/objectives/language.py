"""Next-token prediction: the text half of the loss."""

from jaxtyping import Array, Float

from transfusion_jax.models import batch as batch_lib
from transfusion_jax.models import transfusion
from transfusion_jax.objectives import loss


def next_token(
  model: transfusion.Transfusion, hidden: Float[Array, 'b t e'], batch: batch_lib.Batch
) -> loss.Ratio:
  """Cross-entropy in nats where `batch.weight` asks for it (Transfusion, L_LM).

  Data decides the weights: nothing is learnt at BOI, at patches, or at padding.
  """
  nats = model.nats(hidden, batch.targets)
  return loss.weighted_sum(nats, batch.weight)
