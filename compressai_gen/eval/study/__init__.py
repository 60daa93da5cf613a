"""Asking people: a page of blind comparisons at matched bytes, and scores from the votes that it saves."""
