"""Looking without changing: status, history, analysis and their pages."""
