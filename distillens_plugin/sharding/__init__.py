"""Models in pieces: FSDP2 and ZeRO-2, what is whole when, and whole state dicts."""
