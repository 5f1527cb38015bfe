"""What all rooms use: errors, and text for people."""
