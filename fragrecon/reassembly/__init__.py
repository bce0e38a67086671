"""From fragments and what is known of them to images."""
