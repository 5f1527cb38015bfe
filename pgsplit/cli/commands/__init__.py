"""One module a command: it parses, calls the core, and prints the result for people or as JSON.

Each module is called as its command is, and calls its click command `command`.
"""
