"""The kfm command: parse, one call, print, exit code."""
