"""What is said of a network: reports, remarks, tables."""
