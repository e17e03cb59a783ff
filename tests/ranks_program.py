"""What every rank runs in `tests/loader/test_distributed.py`: loads each order, gathers what all have seen.

Started by ``python -m torch.distributed.run``; rank 0 writes what it gathered as JSON.
"""

from __future__ import annotations

import json
import os
import sys

import torch.distributed as dist

from ffcv_gpu.fields.decoders import IntDecoder
from ffcv_gpu.loader import Loader, OrderOption


def seen(path: str, order: OrderOption, world: int) -> dict[str, list[list[int]]]:
    """Labels of each batch: an epoch, an epoch cut after one batch, and the rest of that by the state."""
    pipelines = {"image": None, "label": [IntDecoder()], "vector": None}
    options = {"order": order, "distributed": True, "seed": 3, "drop_last": False, "pipelines": pipelines}
    loader = Loader(path, 2, num_workers=1, **options)
    assert (loader.rank, loader.world_size) == (dist.get_rank(), dist.get_world_size())
    found = {"whole": [batch[0].flatten().tolist() for batch in loader]}
    running = iter(loader)
    found["head"] = [next(running)[0].flatten().tolist()]
    states: list[object] = [None] * world
    dist.all_gather_object(states, loader.state_dict())
    assert states == [states[0]] * world
    loader.close()
    resumed = Loader(path, 1, num_workers=1, **options)
    resumed.load_state_dict(json.loads(json.dumps(states[0])))
    found["rest"] = [batch[0].flatten().tolist() for batch in resumed]
    return found


def main(path: str, target: str) -> None:
    """Run all orders, in lockstep."""
    dist.init_process_group("gloo")
    outcome = {}
    world = dist.get_world_size()
    for order in OrderOption:
        shares: list[object] = [None] * world
        dist.all_gather_object(shares, seen(path, order, world))
        outcome[order.name] = shares
    if dist.get_rank() == 0:
        with open(target, "w", encoding="utf-8") as file:
            json.dump({"orders": outcome, "local ranks": int(os.environ["LOCAL_WORLD_SIZE"])}, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
