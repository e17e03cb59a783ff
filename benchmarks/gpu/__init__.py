"""What to ask a GPU, most decisive first: ``python -m benchmarks gpu``, or ``make gpu`` from a bare machine.

One file an experiment: a function from a `Bench` to rows. Each runs in a process of its own (`child`) that
appends JSON lines (`lines`), so that a crash or a hang costs that experiment only (`driver`). `suite` is the
list; `torch_device` is the only place that knows torch.cuda, and `host_device` stands in for it: the same
experiments on host memory and a fake nvJPEG (``--rehearse``), which measures nothing and finds mistakes.
"""
