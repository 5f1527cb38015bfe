"""Read-only views: status, history, analysis, and their pages."""
