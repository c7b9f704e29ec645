"""Transfusion 0.76B: 24 layers of width 1536, as in section 4.1 of the paper.

  python -m transfusion_jax.train --config=configs/transfusion_760m.py \
    --workdir=runs/transfusion_760m --config.autoencoder.checkpoint=DIR

`--config=configs/transfusion_760m.py:unet` takes the U-Net adapter. Sequences of 4,096
positions, 2M positions a step, 250k steps: 0.5T in all. The paper then reports
(Table 7, guidance 3; linear, then U-Net): MS-COCO FID 20.3 and 16.7, CIDEr 16.0 and
25.4, C4 perplexity 10.4 and 10.3. The paper's data is not public; emoji scenes at 256
pixels stand in for it here, to be replaced by a corpus.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(adapter: str = 'linear') -> ConfigDict:
  """Config described above, with either adapter."""
  run = base.size(base.transfusion(), '760m')
  run.model.adapter.kind = adapter
  return run
