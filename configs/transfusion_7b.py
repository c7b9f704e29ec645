"""Transfusion 7B: 32 layers of width 4096, as in section 4.1 of the paper.

  python -m transfusion_jax.train --config=configs/transfusion_7b.py \
    --workdir=runs/transfusion_7b --config.autoencoder.checkpoint=DIR

`--config=configs/transfusion_7b.py:unet` takes the U-Net adapter. Sequences of 4,096
positions, 2M positions a step, 250k steps: 0.5T in all. The paper then reports
(Table 7, guidance 3; linear, then U-Net): MS-COCO FID 18.6 and 16.0, CIDEr 27.2 and
33.7, C4 perplexity 7.7 and 7.8. The paper's data is not public; emoji scenes at 256
pixels stand in for it here, to be replaced by a corpus.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(adapter: str = 'linear') -> ConfigDict:
  """Config described above, with either adapter."""
  run = base.size(base.transfusion(), '7b')
  run.model.adapter.kind = adapter
  return run
