"""Adaptation to own footage."""
