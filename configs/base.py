"""Defaults of every section, and the model sizes of the paper.

A config file starts from `transfusion()` or `autoencoder()` and changes some fields.
All fields exist here, so that `--config.model.transformer.depth=12` works for each of
them and a misspelt name is an error. Fields without a default must be set by the
config.
"""

from ml_collections import ConfigDict

from transfusion_jax.runs import config

SIZES = {
  '160m': {'depth': 16, 'width': 768, 'heads': 12, 'mlp': 2048},
  '370m': {'depth': 24, 'width': 1024, 'heads': 16, 'mlp': 2816},
  '760m': {'depth': 24, 'width': 1536, 'heads': 24, 'mlp': 4096},
  '1_4b': {'depth': 24, 'width': 2048, 'heads': 16, 'mlp': 5632},
  '7b': {'depth': 32, 'width': 4096, 'heads': 32, 'mlp': 11008},
}
"""Sizes in Transfusion, section 4.1, with the hidden widths of Llama, which match."""


SMALL_AUTOENCODER = {
  'channels': 64,
  'multipliers': (1, 2),
  'encoder_blocks': 1,
  'decoder_blocks': 1,
  'middle': False,
  'latent_channels': 16,
  'latent_convs': False,
  'groups': 8,
  'patch': 4,
}
"""Small autoencoder with windows, 8x, for small images and a CPU."""


def transfusion() -> ConfigDict:
  """Mixed run with the paper's objective and optimizer; sizes are not set."""
  run = config.empty(config.TransfusionRun)
  run.kind = 'transfusion'
  run.seed = 0
  run.data = _data()
  run.autoencoder.checkpoint = ''
  run.autoencoder.deviation = 1.0
  run.autoencoder.sample = False
  run.autoencoder.run = autoencoder()
  run.model.vocabulary = 0
  run.model.transformer.update(
    rope_base=10_000.0,
    norm_epsilon=1e-5,
    qk_norm=False,
    dtype='float32',
    remat='none',
    unroll=1,
    attention='xla',
  )
  run.model.adapter.kind = 'linear'
  run.model.adapter.linear.update(patch=2, time_features=256, positions=0)
  run.model.adapter.unet.update(
    widths=(512, 1152), blocks=2, groups=32, head_dim=128, time_features=256
  )
  run.objective.update(image_weight=5.0, target='epsilon')
  run.objective.path.update(kind='cosine', steps=1000)
  run.optimizer = _optimizer()
  run.train = _train()
  run.start.update(checkpoint='', step=-1, parameters='own')
  run.mesh.update(data=1, fsdp=-1, sequence=1, tensor=1)
  run.sampling.update(
    solver='ddpm',
    steps=250,
    guidance=3.0,
    guidance_from=1.0,
    guidance_to=0.0,
    rescale=0.0,
    clip=4.0,
    percentile=0.0,
  )
  run.evaluation.update(every=0, rows=64)
  evaluate(run, **of_own_data())
  return run


def autoencoder() -> ConfigDict:
  """Run of the paper's autoencoder: 8x, 8 channels; length and batch are not set."""
  run = config.empty(config.AutoencoderRun)
  run.kind = 'autoencoder'
  run.seed = 0
  run.data = _data()
  run.model.update(
    channels=128,
    multipliers=(1, 2, 4, 4),
    encoder_blocks=2,
    decoder_blocks=3,
    middle=True,
    latent_channels=8,
    latent_convs=True,
    groups=32,
    patch=1,
  )
  run.objective.update(kl_weight=1e-6, lpips_weight=1.0, lpips_file='')
  run.objective.adversarial.update(weight=0.5, begin=50_000)
  run.objective.adversarial.discriminator.update(channels=64, layers=3, groups=32)
  run.optimizer = _optimizer()
  run.optimizer.update(
    learning_rate=1e-4, beta2=0.99, weight_decay=0.0, ema_decay=0.999
  )
  run.train = _train()
  run.start.update(checkpoint='', step=-1, parameters='own')
  run.mesh.update(data=1, fsdp=-1, sequence=1, tensor=1)
  run.measured = 10_000
  return run


def plain_objective(run: ConfigDict, *, kl_weight: float) -> None:
  """Removes LPIPS and the discriminator, which need weights and an accelerator."""
  run.objective.update(kl_weight=kl_weight, lpips_weight=0.0)
  run.objective.adversarial.weight = 0.0


def size(run: ConfigDict, name: str) -> ConfigDict:
  """Mixed run with a size of the paper, at 256 pixels and 4,096 positions.

  Attention uses the TPU kernel; elsewhere `--config.model.transformer.attention=xla`.
  The tokenizer, with 32,000 pieces, is part of a package: `pip install -e '.[text]'`.
  Every row is a shard of the data, since the rows of a host may not be adjacent.
  """
  transformer = run.model.transformer
  transformer.update(SIZES[name])
  transformer.kv_heads = transformer.heads
  transformer.head_dim = transformer.width // transformer.heads
  transformer.dtype = 'bfloat16'
  transformer.remat = 'full'
  transformer.attention = 'tpu'
  run.model.vocabulary = 32_128
  run.data.scenes.update(
    size=256, sprites=(48, 64, 96, 128), placement='free', glyphs=0
  )
  run.data.scenes.colors = 10
  run.data.images.update(height=256, width=256)
  run.data.tokenizer.update(
    kind='sentencepiece',
    path='package:mistral_common/data/tokenizer.model.v1',
    reserved=64,
  )
  run.data.threads = 16
  run.data.update(rows=512, row_length=4096, image_slots=16)
  run.autoencoder.run.data = run.data.copy_and_resolve_references()
  run.autoencoder.run.data.rows = 256
  run.data.shards = run.data.rows
  run.autoencoder.run.data.shards = run.autoencoder.run.data.rows
  run.autoencoder.run.train.steps = 1_000_000
  run.train.update(steps=250_000)
  run.train.checkpoints.every = 1000
  return run


def source(
  kind: str, path: str = '', *, form: str = 'captioned', **changes
) -> ConfigDict:
  """Source of documents for `mix`.

  Args:
    kind: kind of source; see `corpus.SourceConfig`.
    path: path or name of the source.
    form: kind of document; see `forms.FormConfig`.
    changes: values of fields of the source or of its form.
  """
  made = config.empty(config.pipeline.corpus.SourceConfig)
  made.update(kind=kind, path=path, split='', directory='', heldout=0.0)
  made.update(weights=(1.0,), since=(0,), epochs=0)
  made.form.update(
    kind=form,
    picture='image',
    text='text',
    answer='answer',
    result='result',
    caption_first=0.8,
    caption_drop=0.1,
    noise_cap=0.5,
  )
  for name, value in changes.items():
    (made if name in made else made.form)[name] = value
  return made


def mix(data: ConfigDict, **sources: ConfigDict) -> None:
  """Sets the sources of the data of a run or of an autoencoder."""
  with data.sources.unlocked():
    for name in list(data.sources):
      del data.sources[name]
    data.sources.update(sources)


COMMON_SENSE = (
  'hellaswag',
  'piqa',
  'social_iqa',
  'winogrande',
  'arc_easy',
  'arc_challenge',
  'boolq',
)
"""Text tasks of the paper (Transfusion, Table 1), by their names in lm-eval."""


EVALUATORS = {
  'samples': {'prompts': 8, 'captions': 8, 'images': 8, 'limit': 128, 'seed': 0},
  'heldout_image_loss': {'documents': 64, 'seed': 0},
  'heldout_perplexity': {'documents': 64, 'seed': 0},
  'scene_tasks': {'questions': 128, 'edits': 32, 'shown': 48, 'seed': 0},
  'scenes': {'prompts': 128, 'shown': 32, 'seed': 0},
  'perplexity': {'documents': 0},
  'image_loss': {'documents': 1000, 'seed': 0},
  'drawings': {
    'prompts': 5000,
    'pictures': 0,
    'features': {'kind': 'efficientnet_lite0', 'weights': ''},
    'subsets': 100,
    'subset': 1000,
    'clip': {'model': 'ViT-B-32-quickgelu', 'weights': ''},
    'shown': 32,
    'seed': 0,
  },
  'captions': {'pictures': 0, 'limit': 64, 'shown': 32, 'seed': 0},
  'geneval': {'images': 4, 'shown': 32, 'seed': 0},
  'harness': {'tasks': COMMON_SENSE, 'folder': '', 'shots': -1, 'limit': 0},
}
"""Defaults of evaluators by kind."""


def evaluator(kind: str, source: ConfigDict | None = None, **changes) -> ConfigDict:
  """Evaluator for `evaluate`.

  Args:
    kind: kind of evaluator; see `config.Evaluator`.
    source: source of documents, for evaluators that read some.
    changes: values of fields of its section.
  """
  made = config.empty(config.kinds(config.Evaluator)[kind])
  made.update(kind=kind, **{**EVALUATORS[kind], **changes})
  if source is not None:
    made.source = source
  return made


def of_own_data() -> dict[str, ConfigDict]:
  """Evaluators of every run, on the held-out part of its own data.

  Evaluators without held-out data are omitted.
  """
  return {
    'samples': evaluator('samples'),
    'heldout_images': evaluator('heldout_image_loss'),
    'heldout_texts': evaluator('heldout_perplexity'),
  }


def evaluate(run: ConfigDict, **evaluators) -> None:
  """Sets the evaluators of a run."""
  with run.evaluation.evaluators.unlocked():
    for name in list(run.evaluation.evaluators):
      del run.evaluation.evaluators[name]
    run.evaluation.evaluators.update(evaluators)


def _data() -> ConfigDict:
  data = config.empty(config.pipeline.DataConfig)
  mix(data, scenes=source('emoji_scenes'))
  data.tokenizer.update(kind='words', path='', reserved=0, multiple=128)
  data.images.update(
    height=32, width=32, crop='center', smallest=16, most_pixels=100_000_000
  )
  data.update(
    moments=False,
    long_texts='split',
    long_pictures='refuse',
    broken=0.01,
    shards=1,
    window=64,
    threads=0,
    prefetch=12,
  )
  data.scenes.update(
    glyphs=16,
    colors=6,
    size=32,
    sprites=(16,),
    placement='grid',
    single=0.25,
    count=0.15,
    pair=0.45,
    binding=0.1,
    story=0.05,
    frames=2,
    heldout=0.1,
    caption_first=0.8,
    caption_drop=0.1,
    image_first_noise_cap=0.5,
    seed=0,
  )
  return data


def _optimizer() -> ConfigDict:
  section = config.empty(config.optimizer.OptimizerConfig)
  section.update(
    learning_rate=3e-4,
    final_learning_rate=1.5e-5,
    warmup_steps=4000,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    moments='float32',
    clip=1.0,
    ema_decay=0.0,
  )
  return section


def _train() -> ConfigDict:
  section = config.empty(config.loop.TrainConfig)
  section.update(microbatches=1, log_every=10, compile_cache='workdir')
  section.guard.update(policy='skip', limit=10, spike=0.0)
  section.checkpoints.update(every=500, newest=2, multiples=0, best=0, score='')
  return section
