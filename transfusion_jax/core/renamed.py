"""Names that a config file or a command line may still use, and what they are now.

Both tables are consulted only where a name is unknown: what is found goes into the one
line that refuses it. A name that is known again must leave its table.
"""

import re
from collections.abc import Iterable

FIELDS: dict[str, str] = {}
"""Old field of a config to new one, dots and all: `'data.old': 'data.new'`.

A key holds for every section that ends so (`data.old` for `autoencoder.run.data.old`);
`*` in both stands for one name that a user has given: `'sources.*.old'`.
"""

_MOVED = {
  'data.images.ImagesConfig': 'data.images.image_files.ImagesConfig',
  'config': 'runs.config',
  'build': 'runs.build',
  'evaluators': 'runs.evaluators',
  'feeds': 'runs.input',
  'results': 'runs.evaluate',
  'trained': 'runs.restore',
  'preflight': 'runs.preflight',
  'stages': 'runs.stages',
  'orders': 'runs.requests',
  'page': 'web.page',
  'buttons': 'web.handlers',
  'studio': 'web.backend',
  'gate': 'web.gate',
  'uploads': 'web.uploads',
  'data.tokenizers': 'data.text.tokenizers',
  'data.tokenizer_config': 'data.text.tokenizer_config',
  'data.tokenizer_patterns': 'data.text.tokenizer_patterns',
  'data.sentence_pieces': 'data.text.sentence_pieces',
  'data.hugging_face': 'data.text.hugging_face',
  'data.picture_files': 'data.images.headers',
  'data.tiff_files': 'data.images.tiff',
  'data.iso_media': 'data.images.iso_media',
  'data.picture_decoders': 'data.images.decoders',
  'data.layout': 'data.rows.layout',
  'data.packing': 'data.rows.packing',
  'data.shards': 'data.rows.shards',
  'data.iterators': 'data.rows.iterators',
  'data.encoded': 'data.latents.manifest',
  'data.encoding': 'data.latents.encoding',
  'data.emoji_captions': 'data.emoji.captions',
  'data.emoji_edits': 'data.emoji.edits',
  'data.emoji_glyphs': 'data.emoji.glyphs',
  'data.emoji_heldout': 'data.emoji.held_out',
  'data.emoji_pictures': 'data.emoji.rendering',
  'data.emoji_placement': 'data.emoji.placement',
  'data.emoji_questions': 'data.emoji.questions',
  'data.emoji_scenes': 'data.emoji.scenes',
  'data.emoji_tasks': 'data.emoji.tasks',
  'data.tfds_emoji_scenes': 'data.emoji.tfds_builder',
  'models.codec': 'models.codecs.codec',
  'models.autoencoder': 'models.codecs.kl',
  'models.discriminator': 'models.codecs.discriminator',
  'models.perceptual': 'models.codecs.perceptual',
  'models.judged': 'models.codecs.autoencoder_training',
  'models.unet': 'models.adapters.unet',
  'models.patches': 'models.adapters',
  'models.stable_diffusion': 'models.published.stable_diffusion',
  'models.weight_names': 'models.published.weight_names',
  'models.pretrained': 'models.published.from_torch',
  'models.efficientnet': 'models.published.efficientnet',
  'generation.image': 'generation.samplers.denoise',
  'evaluation.scene_scores': 'evaluation.emoji.scenes',
  'evaluation.scene_tasks': 'evaluation.emoji.tasks',
  'evaluation.scenes': 'evaluation.emoji.scorer',
  'evaluation.glyph_search': 'evaluation.emoji.glyph_search',
  'evaluation.strips': 'evaluation.trajectories',
}

MODULES: dict[str, str] = {
  f'transfusion_jax.{old}': f'transfusion_jax.{new}' for old, new in _MOVED.items()
}
"""Old module, or name in one, to the new one: `'package.a': 'package.b.a'`.

The first that fits is taken, so that names stand before their modules.
"""

_MISSING_KEY = re.compile(r'Key "(\w+)" does not exist|["\']*(\w+)["\']*(?:$| Did you)')
_MISSING_IMPORT = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")


def field(path: str) -> str:
  """The new name of a field, whole; empty where its name is not an old one."""
  for old, new in FIELDS.items():
    pattern = r'\.'.join(
      r'([^.]+)' if part == '*' else re.escape(part) for part in old.split('.')
    )
    found = re.fullmatch(rf'((?:.+\.)?){pattern}((?:\..+)?)', path)
    if found:
      before, *given, behind = found.groups()
      named = iter(given)
      parts = [next(named) if part == '*' else part for part in new.split('.')]
      return before + '.'.join(parts) + behind
  return ''


def module(path: str) -> str:
  """The new name of a module, or of what is in it; empty if it is not an old one."""
  for old, new in MODULES.items():
    if path == old or path.startswith(f'{old}.'):
      return new + path.removeprefix(old)
  return ''


def said(error: BaseException, text: str, arguments: Iterable[str]) -> str:
  """A line with the new name, where an old one is why a config cannot be had.

  Args:
    error: of a command line, or of the program that a config file is.
    text: what it says, on one line.
    arguments: of the command line.

  Returns:
    The line; empty where no old name is at fault.
  """
  if isinstance(error, ImportError):
    found = _MISSING_IMPORT.search(text)
    old = f'{found[2]}.{found[1]}' if found else error.name or ''
    new = module(old)
    return f'expected {new}, found its old name {old}; change the import' if new else ''
  found = _MISSING_KEY.match(text)
  if not found or not isinstance(error, KeyError | AttributeError):
    return ''
  key = found[1] or found[2]
  for argument in arguments:
    flag, _, path = argument.partition('=')[0].lstrip('-').partition('.')
    if key in path.split('.') and field(path):
      return f'expected --{flag}.{field(path)}, found its old name {path}; change it'
  new = {value for old, value in FIELDS.items() if key == old.split('.')[-1]}
  if not new:
    return ''
  return f'expected {" or ".join(sorted(new))}, found its old name {key}; change it'
