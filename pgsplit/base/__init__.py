"""What everything else uses: errors, and how sizes and times are written."""
