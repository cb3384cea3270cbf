"""Settings for the tests of this folder."""

from __future__ import annotations

import torch

# These tensors are tiny: more threads only wait for one another, long on a busy machine.
torch.set_num_threads(1)
