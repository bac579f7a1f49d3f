"""Small helpers that every part may use."""
