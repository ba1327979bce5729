"""How long an answer takes, stage by stage, on the path that is also evaluated: `attach` and `generate`."""
