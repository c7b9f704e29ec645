"""Transfusion 0.16B: 16 layers of width 768, as in section 4.1 of the paper.

  python -m transfusion_jax.train --config=configs/transfusion_160m.py \
    --workdir=runs/transfusion_160m --config.autoencoder.checkpoint=DIR

`--config=configs/transfusion_160m.py:unet` takes the U-Net adapter. Sequences of 4,096
positions, 2M positions a step, 250k steps: 0.5T in all. The paper then reports
(Table 7, guidance 3; linear, then U-Net): MS-COCO FID 37.6 and 18.8, CIDEr 6.2 and
15.3, C4 perplexity 14.8 and 14.4. The paper's data is not public; emoji scenes at 256
pixels stand in for it here, to be replaced by a corpus.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(adapter: str = 'linear') -> ConfigDict:
  """Config described above, with either adapter."""
  run = base.size(base.transfusion(), '160m')
  run.model.adapter.kind = adapter
  return run
