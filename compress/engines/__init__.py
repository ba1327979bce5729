"""Compression for engines that run the decoder themselves: the choice of tokens, without hooks."""
