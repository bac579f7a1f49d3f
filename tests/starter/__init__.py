"""The starter weights and the set they were trained on."""
