"""Small general pieces with no word of the domain in them."""
