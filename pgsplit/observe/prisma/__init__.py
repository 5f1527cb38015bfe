"""Writes a schema.prisma for a service's database, with the names that the application knows."""
