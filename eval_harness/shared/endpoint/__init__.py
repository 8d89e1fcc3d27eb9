"""Clients of servers: JSON over HTTP, with a limit on everything."""
