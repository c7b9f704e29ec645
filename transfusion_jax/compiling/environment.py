"""Environment variables with which libtpu compiles on a machine without a TPU.

JAX reads them when it is imported, so that they must be set before.
"""

from collections.abc import Mapping

VARIABLES: Mapping[str, str] = {
  'JAX_PLATFORMS': 'cpu',
  # No question to a metadata server that is not there.
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  # No lock on libtpu, and no warnings about any of this.
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}
