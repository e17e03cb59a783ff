"""Run by FFCV's own Python: prints name and default of the parameters of what the arguments name, as JSON."""

import importlib
import inspect
import json
import sys


def found(path):
    module, _, name = path.rpartition(".")
    try:
        owner = importlib.import_module(module)
    except ModuleNotFoundError:
        owner = found(module)
    return getattr(owner, name)


def parameters(what):
    what = getattr(what, "py_func", what)
    for parameter in inspect.signature(what).parameters.values():
        default = parameter.default
        if parameter.name != "self":
            shown = repr(getattr(default, "name", default))
            yield [parameter.name, "" if default is parameter.empty else shown]


print(json.dumps({path: list(parameters(found(f"ffcv.{path}"))) for path in sys.argv[1:]}))
