"""SeqNet and SeqNeXt."""
