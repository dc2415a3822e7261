"""What other programs mean by their names and settings. The core imports none of it."""
