"""The routes of applications, and pausing their clients."""
