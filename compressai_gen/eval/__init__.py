"""Rate-distortion-perception evaluation: ``python -m compressai_gen.eval``; ``eval/protocol.md`` fixes its rules."""
