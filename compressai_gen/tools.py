"""Runs CompressAI's own command-line tools with this plugin loaded.

``python -m compressai_gen.tools eval_model pretrained FOLDER -a cgdm -q 1,3`` is
``python -m compressai.utils.eval_model …`` with our models known to it. Without a tool's name, it lists them.
"""

from __future__ import annotations

import pkgutil
import runpy
import sys

import compressai.utils

import compressai_gen  # noqa: F401  (registers the models)


def main(argv: list[str] | None = None, prog: str = "python -m compressai_gen.tools") -> int:
    """Runs the tool that the first argument names; the others are the tool's."""
    argv = sys.argv[1:] if argv is None else argv
    tools = sorted(module.name for module in pkgutil.iter_modules(compressai.utils.__path__) if module.ispkg)
    if not argv or argv[0] not in tools:
        print(f"usage: {prog} TOOL …; tools: {', '.join(tools)}", file=sys.stderr)
        return 2
    sys.argv = [f"compressai.utils.{argv[0]}", *argv[1:]]
    runpy.run_module(f"compressai.utils.{argv[0]}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
