"""Building blocks of both codecs, each named after the part of the paper that it is."""
