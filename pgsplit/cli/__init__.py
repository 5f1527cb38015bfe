"""The command line: `main` runs a command, `commands` has a module for each."""
