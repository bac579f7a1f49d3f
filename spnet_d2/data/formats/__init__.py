"""Readers of the corpora as distributed; each writes the generic person-search JSON."""
