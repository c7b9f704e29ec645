"""Transfusion 1.4B: 24 layers of width 2048, as in section 4.1 of the paper.

  python -m transfusion_jax.train --config=configs/transfusion_1_4b.py \
    --workdir=runs/transfusion_1_4b --config.autoencoder.checkpoint=DIR

`--config=configs/transfusion_1_4b.py:unet` takes the U-Net adapter. Sequences of 4,096
positions, 2M positions a step, 250k steps: 0.5T in all. The paper then reports
(Table 7, guidance 3; linear, then U-Net): MS-COCO FID 19.4 and 16.6, CIDEr 19.1 and
28.1, C4 perplexity 9.5 and 9.4. The paper's data is not public; emoji scenes at 256
pixels stand in for it here, to be replaced by a corpus.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(adapter: str = 'linear') -> ConfigDict:
  """Config described above, with either adapter."""
  run = base.size(base.transfusion(), '1_4b')
  run.model.adapter.kind = adapter
  return run
