"""What was done and where each service stands, recorded in the monolith."""
