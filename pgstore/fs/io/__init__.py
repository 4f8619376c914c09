"""Open files and the file objects on them."""
