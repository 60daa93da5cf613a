"""Of ``tools``, which runs CompressAI's own programs, and of ``completion``."""

from __future__ import annotations

import argparse

from compressai_gen.parsers.common import describe

__all__ = ["completion", "tools"]


def tools(parser: argparse.ArgumentParser) -> None:
    """Add what ``tools`` takes."""
    add = describe(
        parser,
        "Run a command-line tool of CompressAI with our models loaded.",
        """
        compressai-gen tools eval_model pretrained path/to/images -a {codec} -q 1,3,5
        compressai-gen tools plot -f results/kodak/{codec}.json -m psnr -o psnr.png
        """,
    )
    add("tool", help="its name below compressai.utils; an unknown name lists all")
    add("arguments", nargs=argparse.REMAINDER, help="the tool's own")


def completion(parser: argparse.ArgumentParser) -> None:
    """Add what ``completion`` takes."""
    add = describe(
        parser,
        "Print the script that completes the arguments of compressai-gen in a shell.",
        """
        compressai-gen completion bash > ~/.local/share/bash-completion/completions/compressai-gen
        compressai-gen completion zsh > ~/.zfunc/_compressai-gen
        """,
    )
    add("shell", choices=("bash", "zsh", "tcsh"), help="whose script to print")
