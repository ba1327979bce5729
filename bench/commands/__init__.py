"""One file per command; `COMMANDS` in each maps the command's name to it."""
