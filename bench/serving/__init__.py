"""The plug-in for vLLM, and a load benchmark of OpenAI-compatible servers."""
