"""The functions of the language: what each may be given, and what it is."""
