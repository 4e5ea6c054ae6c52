"""Equal forms: the program with what is written out as the operators that it is."""
