"""Transfusion 0.37B: 24 layers of width 1024, as in section 4.1 of the paper.

  python -m transfusion_jax.train --config=configs/transfusion_370m.py \
    --workdir=runs/transfusion_370m --config.autoencoder.checkpoint=DIR

`--config=configs/transfusion_370m.py:unet` takes the U-Net adapter. Sequences of 4,096
positions, 2M positions a step, 250k steps: 0.5T in all. The paper then reports
(Table 7, guidance 3; linear, then U-Net): MS-COCO FID 21.5 and 18.1, CIDEr 11.1 and
21.1, C4 perplexity 12.0 and 11.8. The paper's data is not public; emoji scenes at 256
pixels stand in for it here, to be replaced by a corpus.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(adapter: str = 'linear') -> ConfigDict:
  """Config described above, with either adapter."""
  run = base.size(base.transfusion(), '370m')
  run.model.adapter.kind = adapter
  return run
