"""SPNet without PyTorch: ONNX graphs of a trained model, and inference with them.

Nothing is imported here: :mod:`.convert` needs PyTorch, :mod:`.predictor` does without.
"""
