"""MS-COCO evaluation as in papers, for any run on captioned images:

  python -m transfusion_jax.evaluate --workdir=DIR --evaluation=configs/coco_30k.py:DATA

30,000 random images of the 2014 validation set, with one random caption each; one
sample per caption: FID and KID against the whole set (40,504 images), and CLIP score.
The folder DATA holds

  captions.jsonl   a line for every image: {"image": "val2014/NAME.jpg", "text": [all
                   its captions]}, from annotations/captions_val2014.json
  val2014/         the images
  inception.pth    weights of FID: pt_inception-2015-12-05-6726825d.pth
  clip.pt          weights of OpenAI's CLIP ViT-B/32

Images are compared at the size that the model generates: 256 pixels in papers. The run
below is the paper's largest, with an FID of 18.6 at guidance 3 (Transfusion, Table 7);
`evaluate` uses only the evaluation and sampling sections of this file.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(folder: str = 'coco') -> ConfigDict:
  """Config described above."""
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
