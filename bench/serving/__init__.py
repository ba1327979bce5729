"""Engines under load: the plug-in for vLLM, and a benchmark of OpenAI-compatible servers."""
