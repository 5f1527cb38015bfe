"""A site about every table and column: what it is, where it comes from, and how it goes back."""
