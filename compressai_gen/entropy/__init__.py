"""Entropy coding that gives the same symbols on every machine."""
