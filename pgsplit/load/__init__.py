"""From a monolith to a built service: provision, land, build."""
