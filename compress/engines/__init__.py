"""Token selection without hooks, for inference engines that run the decoder themselves."""
