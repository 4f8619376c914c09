"""The bytes of files."""
