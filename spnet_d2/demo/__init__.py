"""What only the demo (``tools/demo.py``) needs: weights of its small backbone, its results."""
