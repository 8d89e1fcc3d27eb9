"""The lens inside other people's trainers."""
