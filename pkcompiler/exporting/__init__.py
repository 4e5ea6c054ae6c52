"""A model and its masks as files that work without pkcompiler: one file here for each target."""
