"""An example of a codec in a package of its own."""
