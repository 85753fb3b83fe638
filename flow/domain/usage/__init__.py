"""What vendors' work used: units, events, and what is made of them."""
