"""The sample monolith, in plain SQL, and clients that write it as applications do."""
