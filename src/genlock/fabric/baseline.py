"""What genlock does not do, for a benchmark to hold its own way against: both in one group, on the same bytes.

Nothing of a run calls these. They check nothing, and the second is built on pickle by torch itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from genlock.fabric.groups import Group


def bare_broadcast(group: Group, payload: Tensor) -> None:
    """Rank 0's bytes into everybody's `payload`: the least that any way must cost."""
    dist.broadcast(payload, group=group.handle, group_src=0)


def object_list(group: Group, message: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Rank 0's dictionary of tensors and numbers as an object list. message: on rank 0, None elsewhere."""
    objects = [message]
    dist.broadcast_object_list(objects, group=group.handle, group_src=0, device=torch.device("cpu"))
    received = objects[0]
    assert received is not None  # rank 0 gave one
    return received
