"""From the starter weights to a model of one's own cameras, without any labels (docs/adapt.md)."""
