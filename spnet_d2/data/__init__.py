"""Data: official corpora to the generic person-search JSON, and from there to training batches.

Nothing is imported here, so that preparing a corpus does not load the training code.
"""
