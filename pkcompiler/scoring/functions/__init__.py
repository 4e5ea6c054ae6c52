"""What each function of the language computes, in files by theme."""
