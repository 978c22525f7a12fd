"""MySocket: netcat for messages that must arrive."""
