"""Parsers of all programs, by command: they import nothing heavy, so that help and a mistyped option answer at once.

Each is a function that adds a program's description, arguments and examples to a parser. What an argument may be is
checked by the program where that takes more than the text.
"""
