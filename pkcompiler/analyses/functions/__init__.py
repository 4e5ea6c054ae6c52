"""What the functions of an analysis compute, one file a theme."""
