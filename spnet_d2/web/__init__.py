"""The web page over a gallery: pick a person, see where else they appear, keep a case."""
