"""What both packages are built on."""
