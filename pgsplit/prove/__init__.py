"""Whether what a service holds is what the monolith yields."""
