"""What each ATen operator means for paths: the operator table."""
