"""What papers measure on MS-COCO, of any run with captioned pictures:

  python -m transfusion_jax.evaluate --workdir=DIR --evaluation=configs/coco_30k.py:DATA

30,000 images of the validation set of 2014 and one caption of each, both at random, one
drawing of each: FID and KID against all of the set (40,504 images), and CLIP score. The
folder DATA holds

  captions.jsonl   a line for every picture: {"image": "val2014/NAME.jpg", "text": [all
                   its captions]}, from annotations/captions_val2014.json
  val2014/         the pictures
  inception.pth    weights of FID: pt_inception-2015-12-05-6726825d.pth
  clip.pt          weights of OpenAI's CLIP ViT-B/32

Pictures are measured at the size that the model draws: 256 pixels in papers. The run
below is the paper's largest, which has an FID of 18.6 at guidance 3 (Transfusion, Table
7); `evaluate` takes from this page only how it is measured and sampled.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(folder: str = 'coco') -> ConfigDict:
  """The run that the page above describes."""
  run = base.size(base.transfusion(), '7b')
  drawings = base.evaluator(
    'drawings',
    base.source('json_lines', f'{folder}/captions.jsonl'),
    prompts=30_000,
    features={'kind': 'inception', 'weights': f'{folder}/inception.pth'},
    clip={'model': 'ViT-B-32-quickgelu', 'weights': f'{folder}/clip.pt'},
  )
  base.evaluate(run, coco_30k=drawings)
  return run
