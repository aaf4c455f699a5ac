"""The command `kvant`: generation, calibration, quality and rows of any model that transformers loads.

Every subcommand is a module of this package with add_arguments(parser) and run(arguments) -> the result as a dict; -o json prints that
dict, otherwise the module's show(result) prints it for people.
"""

import argparse
import json
import sys

import kvant
import kvant.identity
from kvant.command import calibrate, generate, quality, rows

_MODULES = {"generate": generate, "calibrate": calibrate, "quality": quality, "rows": rows}


def parser():
    """The whole command line."""
    whole = argparse.ArgumentParser(prog="kvant", description=__doc__.splitlines()[0])
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in _MODULES.items():
        summary = module.__doc__.splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        optional = {"nargs": "?"} if getattr(module, "WITHOUT_MODEL", False) else {}
        what = "a checkpoint's folder, a GGUF file, or the name of a model that was downloaded"
        command.add_argument("model", metavar="MODEL", help=what, **optional)
        module.add_arguments(command)
        command.add_argument("-o", dest="output", choices=["text", "json"], default="text", help="what to print (text)")
    return whole


def main(argv=None):
    """Exit codes: 0 done, 1 failed (message on stderr), 2 wrong usage."""
    arguments = parser().parse_args(argv)
    module = _MODULES[arguments.command]
    try:
        if arguments.model is not None:
            arguments.model = str(kvant.identity.checkpoint(arguments.model))
        result = module.run(arguments)
    except ModuleNotFoundError as error:
        print(f"kvant {arguments.command}: {error}: pip install 'kvant[transformers,plot]' brings what the command wants", file=sys.stderr)
        return 1
    except (kvant.Error, OSError, ValueError, ImportError) as error:
        print(f"kvant {arguments.command}: {error}", file=sys.stderr)
        return 1
    if arguments.output == "json":
        print(json.dumps(result, indent=2))
    else:
        module.show(result)
    return 0
