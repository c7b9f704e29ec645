"""FlexAttention for `gpu_attention`; needs PyTorch, not JAX."""

import argparse
import json
import pathlib
import sys
import time

import numpy as np
import torch
from torch.nn.attention import flex_attention


class Attention:
  """Attention over the spans of a file, on the GPU if there is one."""

  def __init__(self, file: str, forward: bool):
    """Reads the arrays from the file and builds the mask from its spans."""
    gpu = torch.cuda.is_available()
    self._device, self._forward = torch.device('cuda' if gpu else 'cpu'), forward
    with np.load(file) as arrays:
      tensors = {name: torch.tensor(arrays[name]) for name in arrays}
    self._arrays = {
      name: tensors[name].to(self._device, torch.bfloat16).requires_grad_(not forward)
      for name in ('q', 'k', 'v')
    }
    self._do = tensors['do'].to(self._device, torch.bfloat16)
    start, end = (tensors[name].to(self._device) for name in ('start', 'end'))
    rows, length = start.shape
    self._mask = flex_attention.create_block_mask(
      lambda b, h, q, k: (start[b, q] <= k) & (k < end[b, q]),
      *(rows, None, length, length),
      device=self._device.type,
    )
    call = flex_attention.flex_attention
    self._call = torch.compile(call) if gpu else call

  def run(self) -> dict[str, torch.Tensor]:
    """Output and, unless disabled, gradients."""
    o = self._call(*self._arrays.values(), block_mask=self._mask)
    if self._forward:
      return {'o': o}
    gradients = torch.autograd.grad(o, list(self._arrays.values()), self._do)
    return {'o': o, **dict(zip(('dq', 'dk', 'dv'), gradients, strict=True))}

  def seconds(self) -> float:
    """Seconds of one pass."""
    began = time.perf_counter()
    self.run()
    if self._device.type == 'cuda':
      torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
  """Answers the requests `seconds` and `values` until the input ends."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('file')
  parser.add_argument('--forward', action='store_true')
  arguments = parser.parse_args()
  attention = Attention(arguments.file, arguments.forward)
  print(json.dumps({'torch': torch.__version__}), flush=True)
  for line in sys.stdin:
    if line.strip() == 'seconds':
      print(attention.seconds(), flush=True)
      continue
    found = pathlib.Path(arguments.file).with_name('flex.npz')
    values = {name: x.detach().float().cpu() for name, x in attention.run().items()}
    np.savez(found, **{name: x.numpy() for name, x in values.items()})
    print(json.dumps(str(found)), flush=True)


if __name__ == '__main__':
  main()
