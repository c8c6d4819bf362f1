"""Tables and JSON files."""
