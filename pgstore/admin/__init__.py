"""What administrators do, as functions that return data: status, check, repair, collection."""
