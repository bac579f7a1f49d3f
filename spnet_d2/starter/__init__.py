"""The starter weights: the set they were trained on, and how they are packed (docs/starter.md)."""
