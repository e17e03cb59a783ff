"""Experiments for a GPU: ``python -m benchmarks gpu``, or ``make gpu`` on a bare machine.

One file per experiment: a function from a `Bench` to rows. Each runs in a separate process (`child`) that
appends JSON lines (`lines`), so that a crash or hang affects only that experiment (`driver`). `suite` is the
list. Only `torch_device` uses torch.cuda, and `host_device` can replace it: the same experiments on host
memory and a fake nvJPEG (``--rehearse``), which measures nothing and finds mistakes.
"""
