"""Trees: from paths to inodes, listing, searching, building and editing them."""
