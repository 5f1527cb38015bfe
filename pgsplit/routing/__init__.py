"""Where applications read and write, and pausing them."""
