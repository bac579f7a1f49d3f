"""Which predictor a program uses: what its options name, and how to open it again."""
